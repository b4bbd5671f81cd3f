"""What tests of several parts need."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from flash.bus.server import NatsServer


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[NatsServer]:
    """A real NATS server of the test's own: up in some 30 ms, and it may be killed and started again."""
    async with NatsServer(tmp_path / "nats") as made:
        yield made
