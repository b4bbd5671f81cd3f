"""Reads a stream in order, without gaps or repetitions, whatever happens to the server meanwhile.

An ephemeral consumer numbers what it delivers; at the first gap, or when it falls silent, a new one goes on behind the
last message we have. No more than a few messages wait here, however many wait there.
"""

import asyncio
import math
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any
from uuid import uuid4

from nats.aio.msg import Msg

from flash.bus.jetstream.connection import Connection
from flash.bus.jetstream.delivery import message, place
from flash.bus.jetstream.pull import Pull
from flash.bus.wire import Message
from flash.errors import BusError

ROOM = 64
"""How many messages wait here at most; with bodies of 512 KiB these are 32 MiB."""
INACTIVE_S = 30.0
"""After how long without us the server forgets the consumer."""
PATIENCE_S = 2.0
"""How long a reading that shall end waits for a message before it asks whether there still is one."""

Api = Callable[[str, Mapping[str, Any]], Awaitable[dict[str, Any]]]


class Reader:
    """One reading."""

    def __init__(
        self, connection: Connection, stream: str, api: Api, patterns: Sequence[str], after: int, *, follow: bool
    ) -> None:
        self._connection = connection
        self._stream = stream
        self._api = api
        self._patterns = list(patterns)
        self._last = after
        self._end: float = math.inf if follow else -1
        """The last sequence that is read."""
        self._consumer = ""
        self._order = 0
        self._is_empty = False
        self._arrived: deque[Message] = deque()
        self._some = asyncio.Event()
        self._pull: Pull | None = None

    def __aiter__(self) -> "Reader":
        return self

    async def __anext__(self) -> Message:
        if self._pull is None:
            self._pull = Pull(self._connection, self._stream, self._prepare, self._take)
            await self._start(self._pull)
        while not self._arrived:
            if self._is_done():
                raise StopAsyncIteration
            self._some.clear()
            try:
                async with asyncio.timeout(PATIENCE_S):
                    await self._some.wait()
            except TimeoutError:
                if self._end < math.inf:
                    await self._look_again()
        found = self._arrived.popleft()
        room = ROOM - len(self._arrived)
        if self._pull.wanted <= room // 2:
            self._pull.want(room)
        if found.sequence > self._end:
            raise StopAsyncIteration
        return found

    async def aclose(self) -> None:
        if self._pull is not None:
            await self._pull.stop()
        if self._consumer:
            with suppress(BusError):
                await self._connection.send(f"$JS.API.CONSUMER.DELETE.{self._stream}.{self._consumer}", b"")

    async def _start(self, pull: Pull) -> None:
        if self._end < 0:
            self._end = last_sequence(await self._api(f"STREAM.INFO.{self._stream}", {}))
        if not self._is_done():
            await pull.start()
            pull.want(ROOM)

    def _is_done(self) -> bool:
        return self._end < math.inf and (self._is_empty or self._last >= self._end)

    async def _prepare(self) -> str:
        self._consumer, self._order = uuid4().hex, 0
        config = {
            "name": self._consumer,
            "filter_subjects": self._patterns,
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": self._last + 1,
            "ack_policy": "none",
            "max_deliver": 1,
            "mem_storage": True,
            "num_replicas": 1,
            "inactive_threshold": int(INACTIVE_S * 1e9),
        }
        request = {"stream_name": self._stream, "config": config}
        made = await self._api(f"CONSUMER.CREATE.{self._stream}.{self._consumer}", request)
        self._is_empty = made["num_pending"] == 0
        self._some.set()
        return self._consumer

    async def _look_again(self) -> None:
        """What we wait for may have been deleted meanwhile."""
        with suppress(BusError):  # the consumer is gone: `_prepare` makes another, and looks
            info = await self._api(f"CONSUMER.INFO.{self._stream}.{self._consumer}", {})
            self._is_empty = info["num_pending"] == 0 and not self._arrived
            self._some.set()

    def _take(self, msg: Msg) -> None:
        at = place(msg)
        if at.consumer != self._consumer:
            return  # from before a fresh start, which will bring it again
        if at.order != self._order + 1:
            if self._pull is not None:
                self._pull.restart()
            return
        self._order, self._last, self._is_empty = at.order, at.sequence, at.pending == 0
        self._arrived.append(message(msg, at))
        self._some.set()


def last_sequence(stream_info: Mapping[str, Any]) -> int:
    return int(stream_info["state"]["last_seq"])
