"""Two buses, one set of behaviours: `side` is either, with what a test may do to it."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from flash.bus import Bus
from flash.bus.jetstream import JetStreamBus, connect
from flash.bus.jetstream.stream import DEAD, JetStream
from flash.bus.memory import MemoryBus, MemoryStream
from flash.bus.server import NatsServer
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

    async def bus(self, name: str = "test:1", token: str = "") -> MemoryBus:
        bus = MemoryBus(self.store, stream=self._stream, name=name, token=token, retry_s=0.02)
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


class JetStreamSide:
    """Replicas with a connection each, on a server of the test's own."""

    name = "jetstream"

    def __init__(self, server: NatsServer, ack_wait_s: float) -> None:
        self.server = server
        self.ack_wait_s = ack_wait_s
        self.store = MemoryStore()
        self._buses: list[JetStreamBus] = []

    async def bus(self, name: str = "test:1", token: str = "") -> JetStreamBus:
        bus = await connect(self.server.url, self.store, name, token=token, ack_wait_s=self.ack_wait_s, retry_s=0.02)
        self._buses.append(bus)
        return bus

    async def kill(self, bus: Any) -> None:
        await bus.keeper.stop()
        await bus.connection.close()
        await bus.close(grace_s=0)

    async def freeze(self, bus: Any) -> None:
        await bus.keeper.stop()

    async def dead_letters(self) -> list[Letter]:
        dead = JetStream(self._buses[-1].connection, DEAD, self._buses[-1].keeper)
        return [Letter(m.subject, m.headers, m.body) async for m in dead.read(["dead.>"], 0, follow=False)]

    async def tell_raw(self, subject: str, body: bytes, message_id: str = "x") -> None:
        await self._buses[-1].connection.request(subject, body, headers={"Nats-Msg-Id": message_id}, timeout_s=2)

    async def close(self) -> None:
        for bus in self._buses:
            await bus.close(grace_s=0)


@pytest.fixture(params=["memory", "jetstream"])
async def side(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Any]:
    if request.param == "memory":
        memory = MemorySide(ack_wait_s=0.2)
        yield memory
        await memory.close()
        return
    async with NatsServer(tmp_path / "nats") as server:
        jetstream = JetStreamSide(server, ack_wait_s=0.5)
        yield jetstream
        await jetstream.close()


@pytest.fixture
async def bus(side: Any) -> Bus:
    made: Bus = await side.bus()
    return made
