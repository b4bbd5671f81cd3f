"""A connection to NATS that comes back by itself, and requests over it."""

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from flash.contracts.access import id_of, is_token, org_of
from flash.errors import BusError
from flash.logs import Log

STATUS = "Status"
NO_RESPONDERS = "503"

log = Log()


class Lost(BusError):
    """No answer, and perhaps the server never heard us: to be tried again."""


class Connection:
    """One socket to the server. Requests of ours share one inbox."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._up = asyncio.Event()
        self._on_reconnect: list[Callable[[], None]] = []
        self._inbox = ""
        self._tokens = itertools.count()
        self._waiting: dict[str, Callable[[Msg], None]] = {}
        self._appending: set[asyncio.Future[Msg]] = set()

    @classmethod
    async def open(cls, url: str, name: str, *, token: str = "", timeout_s: float) -> "Connection":
        """Raises BusError when nobody answers in time, and at once when we are refused.

        `token` is what we come in with where there is neither user nor password in the url.
        """
        client = Client()
        self = cls(client)
        user = urlsplit(url).username
        refused: asyncio.Future[str] = asyncio.get_running_loop().create_future()

        async def on_error(error: Exception) -> None:
            if "authorization" in str(error).lower() and not refused.done():
                refused.set_result(str(error))
            if "permissions violation" in str(error).lower():
                log.error("nats.forbidden", reason=str(error))
            log.debug("nats.failed", error=f"{type(error).__name__}: {error}")

        opening = asyncio.create_task(
            client.connect(
                url,
                error_cb=on_error,
                disconnected_cb=self._went_down,
                reconnected_cb=self._came_back,
                inbox_prefix=own_inbox(user) if user else inbox_of(token),
                token=token if token and not user else None,
                **options(name),
            )
        )
        try:
            await asyncio.wait((opening, refused), timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not opening.done():
                stop_trying(client)
                opening.cancel()
        if opening.cancelling():
            await asyncio.gather(opening, return_exceptions=True)
            await client.close()
            if refused.done():
                raise BusError(
                    f"the NATS server at {shown(url)} refuses us: we brought no token that is known, or the hub, which "
                    "knows them, is down; `flash login URL` asks for a token"
                )
            raise BusError(
                f"the NATS server at {shown(url)} does not answer within {timeout_s:g} s: "
                "is Flash up? `flash up` starts it"
            )
        refused.cancel()
        await opening
        self._inbox = client.new_inbox()
        await client.subscribe(f"{self._inbox}.*", cb=self._on_reply, pending_msgs_limit=-1, pending_bytes_limit=-1)
        self._up.set()
        return self

    @property
    def client(self) -> Client:
        return self._client

    @property
    def is_up(self) -> bool:
        return self._up.is_set()

    def on_reconnect(self, call: Callable[[], None]) -> Callable[[], None]:
        """Call this whenever the connection has come back; the result takes the call away again."""
        self._on_reconnect.append(call)
        return lambda: self._on_reconnect.remove(call)

    async def request(
        self, subject: str, body: bytes, *, headers: Mapping[str, str] | None = None, timeout_s: float
    ) -> Msg:
        """One reply. Raises Lost when there is none in time, nobody listens, or the connection goes down meanwhile."""
        future: asyncio.Future[Msg] = asyncio.get_running_loop().create_future()
        await self._up.wait()
        self._appending.add(future)
        reply_to, forget = self.inbox(lambda msg: None if future.done() else future.set_result(msg))
        try:
            await self.send(subject, body, reply_to=reply_to, headers=headers)
            async with asyncio.timeout(timeout_s):
                msg = await future
        except TimeoutError as error:
            raise Lost(f"no answer on {subject} within {timeout_s:g} s") from error
        finally:
            self._appending.discard(future)
            forget()
        if is_status(msg, NO_RESPONDERS):
            raise Lost(f"nobody listens on {subject}")
        return msg

    def inbox(self, take: Callable[[Msg], None]) -> tuple[str, Callable[[], None]]:
        """An address for replies, and what closes it."""
        token = str(next(self._tokens))
        self._waiting[token] = take
        return f"{self._inbox}.{token}", lambda: void(self._waiting.pop(token, None))

    async def subscribe(self, subject: str, take: Callable[[Msg], Awaitable[None]]) -> Subscription:
        return await self._client.subscribe(subject, cb=take, pending_msgs_limit=-1, pending_bytes_limit=-1)

    async def send(
        self, subject: str, body: bytes, *, reply_to: str = "", headers: Mapping[str, str] | None = None
    ) -> None:
        """Raises BusError for what can never be sent, and Lost when the buffer for the time without server is full."""
        try:
            await self._client.publish(subject, body, reply=reply_to, headers=dict(headers) if headers else None)
        except nats.errors.MaxPayloadError as error:
            limit = self._client.max_payload
            raise BusError(f"{subject} has {len(body)} bytes, but the server takes at most {limit}") from error
        except nats.errors.OutboundBufferLimitError as error:
            raise Lost("the connection is down, and too much waits to be sent") from error
        except nats.errors.ConnectionClosedError as error:
            raise BusError(f"{subject} cannot be sent: the bus is closed") from error

    async def round_trip(self, timeout_s: float) -> None:
        """What was sent has reached the server, and what the server had sent has reached us. Raises Lost.

        A message to ourselves; not nats-py's `flush`, whose PONG, if it comes too late, ends the reading of the socket.
        """
        here = asyncio.Event()
        inbox, forget = self.inbox(lambda _: here.set())
        try:
            async with asyncio.timeout(timeout_s):
                await self._up.wait()
                await self.send(inbox, b"")
                await here.wait()
        except TimeoutError as error:
            raise Lost(f"the server did not answer within {timeout_s:g} s") from error
        finally:
            forget()

    async def close(self) -> None:
        stop_trying(self._client)
        with suppress(ConnectionError):  # the server is gone: nothing more can be said
            await self._client.close()

    async def _on_reply(self, msg: Msg) -> None:
        take = self._waiting.get(msg.subject.rpartition(".")[2])
        if take is not None:
            take(msg)

    async def _went_down(self) -> None:
        self._up.clear()
        if not self._client.is_closed:
            log.warning("nats.disconnected")
        for future in self._appending:
            if not future.done():
                future.set_exception(Lost("the connection went down before the answer came"))

    async def _came_back(self) -> None:
        log.info("nats.reconnected")
        self._up.set()
        for call in list(self._on_reconnect):
            call()


def stop_trying(client: Client) -> None:
    """Before a client is closed that may be trying to connect.

    nats-py ends its attempts by cancelling them, which Python 3.11's `wait_for` may swallow: then they went on for ever
    and held up the end of the process. Without a server to try they end by themselves.
    """
    client._server_pool.clear()
    client.options["max_reconnect_attempts"] = 0


def options(name: str) -> dict[str, Any]:
    """How we connect: a dead server is noticed within seconds, and we never stop trying."""
    return {
        "name": name,
        "ping_interval": 5,
        "max_outstanding_pings": 2,
        "max_reconnect_attempts": -1,
        "reconnect_time_wait": 0.2,
        "pending_size": 64 << 20,
        "drain_timeout": 5,
    }


def inbox_of(token: str) -> str:
    """Where a token's holder, and nobody else, hears what they are answered."""
    return f"_INBOX.{org_of(token)}.{id_of(token)}" if is_token(token) else "_INBOX"


def own_inbox(user: str) -> str:
    """The same of whoever comes in by a password."""
    return f"_INBOX.{user}"


def is_status(msg: Msg, status: str) -> bool:
    return not msg.data and bool(msg.headers) and (msg.headers or {}).get(STATUS) == status


def shown(url: str) -> str:
    """The address without user and password."""
    parts = urlsplit(url)
    return f"{parts.hostname}:{parts.port or 4222}"


def void(_: object) -> None:
    return None
