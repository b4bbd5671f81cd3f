"""One JetStream stream: append with an expectation, look at the newest, read in order, consume together."""

import asyncio
import datetime
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from flash.bus import Pool, Shared
from flash.bus.jetstream.connection import Connection, Lost
from flash.bus.jetstream.consumer import SharedConsumer
from flash.bus.jetstream.keeper import Keeper
from flash.bus.jetstream.reader import Reader, last_sequence
from flash.bus.wire import Letter, Message, Moved
from flash.errors import BusError

DEAD = "FLASH_DEAD"
"""The stream of dead letters."""
WINDOW = 64
"""How many publishes of one process may wait for their answer."""
ANSWER_S = 2.0
"""How long one try waits."""
EXPECT = "Nats-Expected-Last-Subject-Sequence"
EXPECT_OVER = "Nats-Expected-Last-Subject-Sequence-Subject"
WRONG_LAST_SEQUENCE = (10071, 10164)
NAME_IN_USE = 10058
NO_MESSAGE = 10037


class ApiError(msgspec.Struct, frozen=True):
    """What the server did not like."""

    code: int = 500
    err_code: int = 0
    description: str = ""


class PubAck(msgspec.Struct, frozen=True):
    """The server's answer to a publish."""

    seq: int = 0
    error: ApiError | None = None


class Stored(msgspec.Struct, frozen=True):
    """A message as the server shows it."""

    subject: str
    seq: int
    time: datetime.datetime
    data: bytes = b""
    hdrs: bytes = b""


class Found(msgspec.Struct, frozen=True):
    """The server's answer to a look at the newest message."""

    message: Stored | None = None
    error: ApiError | None = None


class Refusal(BusError):
    """The server understood, and says no."""

    def __init__(self, text: str, err_code: int) -> None:
        super().__init__(text)
        self.err_code = err_code


class JetStream:
    """A `Stream` on the server. Every call tries until the server has answered."""

    def __init__(self, connection: Connection, name: str, keeper: Keeper, *, ack_wait_s: float = 10.0) -> None:
        self._connection = connection
        self._name = name
        self._keeper = keeper
        self._ack_wait_s = ack_wait_s
        self._window = asyncio.Semaphore(WINDOW)

    async def ensure(
        self, subjects: list[str], *, duplicate_window_s: float, updates: bool = True, **more: object
    ) -> None:
        """Make the stream, or with `updates` bring it up to date without touching what an operator has set besides."""
        wanted = {
            "name": self._name,
            "subjects": subjects,
            "duplicate_window": int(duplicate_window_s * 1e9),
            "allow_direct": True,
            **more,
        }
        new = {"retention": "limits", "storage": "file", "discard": "old", "num_replicas": 1, **wanted}
        try:
            await self.api(f"STREAM.CREATE.{self._name}", new)
        except Refusal as refusal:
            if refusal.err_code != NAME_IN_USE:
                raise
            if not updates:
                return
            there = await self.api(f"STREAM.INFO.{self._name}")
            if any(there["config"].get(key) != value for key, value in wanted.items()):
                await self.api(f"STREAM.UPDATE.{self._name}", {**there["config"], **wanted})

    async def append(self, letter: Letter, *, expect: int, over: str) -> int:
        headers = {**letter.headers, EXPECT: str(expect)}
        if over != letter.subject:
            headers[EXPECT_OVER] = over
        return await self._publish(letter.subject, letter.body, headers)

    async def purge(self, pattern: str, before: int) -> None:
        await self.api(f"STREAM.PURGE.{self._name}", {"filter": pattern, "seq": before})

    async def bury(self, letter: Letter) -> None:
        # The headers of the fact, but not its id: that one is already in the other stream's window.
        await self._publish(letter.subject, letter.body, letter.headers)

    async def newest(self, pattern: str) -> Message | None:
        body = msgspec.json.encode({"last_by_subj": pattern})
        answer = await self._request(f"$JS.API.STREAM.MSG.GET.{self._name}", body)
        found = msgspec.json.decode(answer, type=Found)
        if found.error is not None and found.error.err_code != NO_MESSAGE:
            raise Refusal(f"{pattern} cannot be read: {found.error.description}", found.error.err_code)
        if found.message is None:
            return None
        there = found.message
        return Message(there.subject, _headers(there.hdrs), there.data, there.seq, there.time.timestamp())

    async def last_sequence(self) -> int:
        return last_sequence(await self.api(f"STREAM.INFO.{self._name}"))

    def read(self, patterns: Sequence[str], after: int, *, follow: bool) -> Reader:
        return Reader(self._connection, self._name, self.api, patterns, after, follow=follow)

    async def consume(self, subscription: Shared) -> SharedConsumer:
        async def prepare() -> str:
            config = {
                "durable_name": subscription.name,
                "filter_subject": subscription.event.pattern(**subscription.where),
                "deliver_policy": "all",
                "ack_policy": "explicit",
                "ack_wait": int(self._ack_wait_s * 1e9),
                "max_deliver": -1,
                "max_ack_pending": 100_000,
                "max_waiting": 10_000,
            }
            request = {"stream_name": self._name, "config": config}
            await self.api(f"CONSUMER.CREATE.{self._name}.{subscription.name}", request)
            return subscription.name

        consumer = SharedConsumer(self._connection, self._name, prepare, self._keeper)
        await consumer.start()
        return consumer

    async def pools(self) -> list[Pool]:
        pools: list[Pool] = []
        offset, total = 0, 1
        while offset < total:
            page = await self.api(f"CONSUMER.LIST.{self._name}", {"offset": offset})
            consumers = page.get("consumers") or []
            total, offset = page["total"], offset + max(1, len(consumers))
            for consumer in consumers:
                if consumer["config"].get("durable_name"):
                    pools.append(
                        Pool(
                            consumer["name"],
                            waiting=consumer["num_pending"],
                            in_progress=consumer["num_ack_pending"],
                            asking=consumer["num_waiting"],
                        )
                    )
        return pools

    async def api(self, verb: str, request: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Ask the server's JetStream API. Raises Refusal."""
        body = b"" if request is None else msgspec.json.encode(request)
        answer: dict[str, Any] = msgspec.json.decode(await self._request(f"$JS.API.{verb}", body))
        if error := answer.get("error"):
            raise Refusal(f"{verb}: {error.get('description')}", error.get("err_code", 0))
        return answer

    async def _publish(self, subject: str, body: bytes, headers: Mapping[str, str]) -> int:
        async with self._window:
            tries = 0
            while True:
                ack = msgspec.json.decode(await self._request(subject, body, headers), type=PubAck)
                if ack.error is None:
                    return ack.seq
                if ack.error.err_code in WRONG_LAST_SEQUENCE:
                    raise Moved(f"{subject}: {ack.error.description}")
                if ack.error.code != 503:
                    raise Refusal(f"{subject} was not told: {ack.error.description}", ack.error.err_code)
                tries += 1
                await asyncio.sleep(_pause_s(tries))

    async def _request(self, subject: str, body: bytes, headers: Mapping[str, str] | None = None) -> bytes:
        tries = 0
        while True:
            try:
                msg = await self._connection.request(subject, body, headers=headers, timeout_s=ANSWER_S)
                return bytes(msg.data)
            except Lost:
                tries += 1
                await asyncio.sleep(_pause_s(tries))


def _pause_s(tries: int) -> float:
    return min(1.0, 0.02 * 2.0**tries)


def _headers(block: bytes) -> dict[str, str]:
    lines = block.decode("utf-8", "replace").split("\r\n")[1:]
    pairs = (line.partition(":") for line in lines if line)
    return {name.strip(): value.strip() for name, _, value in pairs}
