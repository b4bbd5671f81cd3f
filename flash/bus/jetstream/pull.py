"""Asks a consumer for messages, a few at a time, for as long as it lives.

nats-py's own `fetch` stalls after an empty answer and loses its request when the server restarts. This one keeps as
many messages requested as are wanted, never more, and starts afresh when the server's heartbeats stop.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

import msgspec
import nats.errors
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from flash.bus.jetstream.connection import STATUS, Connection
from flash.errors import BusError
from flash.logs import Log

HEARTBEAT_S = 1.0
EXPIRES_S = 10.0
RETRY_S = 0.2
ENDS_OF_REQUESTS = ("404", "408")
"""Statuses that end one request in the ordinary course of things."""

log = Log()


class Pull:
    """Messages of one consumer, one by one to `take`."""

    def __init__(
        self, connection: Connection, stream: str, prepare: Callable[[], Awaitable[str]], take: Callable[[Msg], None]
    ) -> None:
        """`prepare` makes sure that the consumer is there, and gives its name; it is called at every fresh start."""
        self._connection = connection
        self._stream = stream
        self._prepare = prepare
        self._take = take
        self._wanted = 0
        self._requested = 0
        self._generation = 0
        self._heard_at = 0.0
        self._is_broken = False
        self._changed = asyncio.Event()
        self._sub: Subscription | None = None
        self._task: asyncio.Task[None] | None = None
        self._forget = connection.on_reconnect(self.restart)

    async def start(self) -> None:
        """Returns once the consumer is there."""
        await self._open()
        self._task = asyncio.create_task(self._run())

    @property
    def wanted(self) -> int:
        return self._wanted

    def want(self, number: int) -> None:
        """So many more messages are welcome."""
        self._wanted = number
        if number > self._requested:
            self._changed.set()

    def restart(self) -> None:
        """Start afresh: what was requested may have been lost."""
        self._is_broken = True
        self._changed.set()

    async def stop(self) -> None:
        """Ask for nothing more. What the server has sent already still reaches `take` before this returns."""
        self._forget()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))
        if self._sub is not None:
            with suppress(nats.errors.Error):
                if self._connection.is_up:
                    await self._sub.drain()  # type: ignore[no-untyped-call]
                else:
                    await self._sub.unsubscribe()

    async def _run(self) -> None:
        while not self._connection.client.is_closed:
            try:
                if self._is_broken or await self._is_silent():
                    await self._open()
                if self._wanted > self._requested:
                    await self._ask(self._wanted - self._requested)
            except (BusError, nats.errors.Error) as error:
                log.warning("pull.failed", stream=self._stream, error=f"{type(error).__name__}: {error}")
                self._is_broken = True
                await asyncio.sleep(RETRY_S)
                continue
            with suppress(TimeoutError):
                async with asyncio.timeout(HEARTBEAT_S / 2):
                    await self._changed.wait()
            self._changed.clear()

    async def _open(self) -> None:
        # A new inbox for each fresh start: messages carry the stream's subjects, so only the inbox tells to which
        # requests they belong.
        self._generation += 1
        generation, old = self._generation, self._sub
        self._is_broken, self._requested = False, 0
        if old is not None:
            await old.unsubscribe()
        self._consumer = await self._prepare()
        self._inbox = self._connection.client.new_inbox()

        async def on_message(msg: Msg) -> None:
            self._on(msg, generation)

        self._sub = await self._connection.subscribe(self._inbox, on_message)

    async def _ask(self, number: int) -> None:
        if self._requested == 0:
            self._heard_at = asyncio.get_running_loop().time()
        self._requested += number
        request = {"batch": number, "expires": _nanoseconds(EXPIRES_S), "idle_heartbeat": _nanoseconds(HEARTBEAT_S)}
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{self._stream}.{self._consumer}"
        await self._connection.send(subject, msgspec.json.encode(request), reply_to=self._inbox)

    def _on(self, msg: Msg, generation: int) -> None:
        status = msg.headers.get(STATUS) if msg.headers and not msg.data else None
        if generation == self._generation:
            self._heard_at = asyncio.get_running_loop().time()
        if status is None:
            if generation == self._generation:
                self._wanted -= 1
                self._requested -= 1
            self._take(msg)
        elif status != "100" and generation == self._generation:
            headers = msg.headers or {}
            self._requested = max(0, self._requested - int(headers.get("Nats-Pending-Messages", self._requested)))
            if status in ENDS_OF_REQUESTS:
                self._changed.set()
            else:  # the consumer is gone, the server stops, ...: start afresh, but never in a spin
                asyncio.get_running_loop().call_later(RETRY_S, self.restart)

    async def _is_silent(self) -> bool:
        if not self._misses_heartbeats():
            return False
        # Perhaps it was we who did not listen, because something blocked the loop: hear first what has come meanwhile.
        with suppress(BusError):
            await self._connection.round_trip(timeout_s=HEARTBEAT_S)
        return self._misses_heartbeats()

    def _misses_heartbeats(self) -> bool:
        return self._requested > 0 and asyncio.get_running_loop().time() - self._heard_at > 2.5 * HEARTBEAT_S


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)
