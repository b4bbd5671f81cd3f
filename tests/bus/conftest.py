"""Two buses, one set of behaviours: `side` is either, with what a test may do to it."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from flash.bus import Bus
from flash.bus.memory import MemoryBus, MemoryStream
from flash.bus.wire import Letter
from flash.store.memory import MemoryStore


class MemorySide:
    """Replicas in one process."""

    name = "memory"

    def __init__(self, ack_wait_s: float) -> None:
        self.ack_wait_s = ack_wait_s
        self.store = MemoryStore()
        self._stream = MemoryStream(ack_wait_s=ack_wait_s)
        self._buses: list[MemoryBus] = []

    async def bus(self, name: str = "test:1") -> MemoryBus:
        bus = MemoryBus(self.store, stream=self._stream, name=name, retry_s=0.02)
        self._buses.append(bus)
        return bus

    async def kill(self, bus: Any) -> None:
        await bus.kill()

    async def freeze(self, bus: Any) -> None:
        bus.freeze()

    async def dead_letters(self) -> list[Letter]:
        return self._stream.dead_letters

    async def tell_raw(self, subject: str, body: bytes, message_id: str = "x") -> None:
        """Say something that no `Event` would: not first told wins, not even decodable."""
        newest = self._stream.newest(subject)
        expect = newest.sequence if newest else 0
        self._stream.append(Letter(subject, {"Nats-Msg-Id": message_id}, body), expect=expect, over=subject)

    async def close(self) -> None:
        for bus in self._buses:
            await bus.close(grace_s=0)


@pytest.fixture(params=["memory"])
async def side(request: pytest.FixtureRequest) -> AsyncIterator[Any]:
    made = MemorySide(ack_wait_s=0.5)
    yield made
    await made.close()


@pytest.fixture
async def bus(side: Any) -> Bus:
    made: Bus = await side.bus()
    return made
