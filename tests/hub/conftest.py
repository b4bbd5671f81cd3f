"""A hub on a bus, and its clock."""

import pytest

from flash.bus.memory import MemoryBus
from services.hub.service import Hub
from services.hub.settings import Settings
from tests.hubs import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def bus(clock: Clock) -> MemoryBus:
    bus = MemoryBus()
    hub = Hub(bus, bus.store, Settings(max_packed_bytes=600_000, max_members=70), now=clock)
    await bus.answer("hub", hub.answers())
    return bus
