"""Requests over NATS: each answering replica is a NATS micro service, so that `$SRV` finds it."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import msgspec
import nats.errors
from nats.aio.msg import Msg

from flash.bus import Admit, Replica
from flash.bus.answering import ERROR, LAST, asking, is_last, let_go, nobody_answers, read_reply, replies
from flash.bus.jetstream.connection import NO_RESPONDERS, Connection, is_status
from flash.contracts.base import Request, request_subject
from flash.errors import BusError, NobodyAnswers, Unanswered
from flash.logs import Log

if TYPE_CHECKING:
    from nats.micro.request import Request as MicroRequest
    from nats.micro.service import Service

AGAIN_S = 0.2
"""How soon a request that nobody took is sent again."""
READY_S = 10.0
"""How long the server may take to know that we answer."""
VERSION = "1.0.0"
REPLICA, STARTED_AT, DONE, STANDING = "replica", "started_at", "done", "standing"
ANNOUNCED = "announced"

log = Log()


class NatsSwitchboard:
    """Answers as one replica, and asks."""

    def __init__(self, connection: Connection, *, replica: str, token: str = "") -> None:
        self._connection = connection
        self._replica = replica
        self._headers = asking(token)
        self._services: list[Service] = []
        self._announced: Service | None = None
        self._running: set[asyncio.Task[None]] = set()

    async def announce(self, service: str, metadata: Mapping[str, str]) -> None:
        from nats.micro import add_service  # whoever only asks has no use for it

        known = {**metadata, REPLICA: self._replica, STARTED_AT: repr(time.time()), STANDING: ANNOUNCED}
        self._announced = await add_service(self._connection.client, name=service, version=VERSION, metadata=known)
        await self._connection.round_trip(READY_S)

    async def answer(
        self,
        service: str,
        answers: Mapping[type[Request], Callable[[Any], Any]],
        admit: Admit | None,
        metadata: Mapping[str, str],
        done: Callable[[], int],
    ) -> None:
        from nats.micro import add_service

        known = {**metadata, REPLICA: self._replica, STARTED_AT: repr(time.time())}
        made = await add_service(
            self._connection.client,
            name=service,
            version=VERSION,
            metadata=known,
            stats_handler=lambda endpoint: {DONE: done()},
        )
        self._services.append(made)
        for kind, answer in answers.items():
            route = metadata[kind.route] if kind.route else None
            await made.add_endpoint(
                name=kind.name.replace(".", "-"),
                subject=request_subject(kind, route),
                handler=self._endpoint(kind, answer, admit),
            )
        if self._announced:
            await _stopped(self._announced)
            self._announced = None
        await self._connection.round_trip(READY_S)

    async def ask(self, request: Request, timeout_s: float) -> Any:
        async with aclosing(self.stream(request, timeout_s)) as parts:
            async for part in parts:
                return part
        raise BusError(f"{request.service} answered {request.name} with nothing")

    async def stream(self, request: Request, timeout_s: float) -> AsyncGenerator[Any, None]:
        arrived: asyncio.Queue[Msg] = asyncio.Queue()
        inbox, forget = self._connection.inbox(arrived.put_nowait)
        try:
            msg = await self._first(request, arrived, inbox, timeout_s)
            while True:
                headers = msg.headers or {}
                part = read_reply(type(request), msg.data, headers)
                if part is not None:
                    yield part
                if is_last(headers):
                    return
                msg = await _within(arrived, request, timeout_s)
        finally:
            forget()

    async def replicas(self, wait_s: float) -> list[Replica]:
        found: dict[str, Replica] = {}

        def take(msg: Msg) -> None:
            if msg.data:
                stats = msgspec.json.decode(msg.data)
                found[stats["id"]] = _replica(stats)

        inbox, forget = self._connection.inbox(take)
        try:
            await self._connection.send("$SRV.STATS", b"", reply_to=inbox)
            await asyncio.sleep(wait_s)
        finally:
            forget()
        return sorted(found.values(), key=lambda replica: (replica.service, replica.id))

    async def close(self, grace_s: float) -> None:
        for service in self._services:
            await _stopped(service)
        self._services = []
        await let_go(set(self._running), grace_s)

    async def _first(self, request: Request, arrived: asyncio.Queue[Msg], inbox: str, timeout_s: float) -> Msg:
        """The first reply. A service that is only starting is waited for."""
        body = msgspec.msgpack.encode(request)
        end = asyncio.get_running_loop().time() + timeout_s
        while (left_s := end - asyncio.get_running_loop().time()) > 0:
            await self._connection.send(request.subject, body, reply_to=inbox, headers=self._headers)
            msg = await _within(arrived, request, left_s, says_s=timeout_s)
            if not is_status(msg, NO_RESPONDERS):
                return msg
            await asyncio.sleep(min(AGAIN_S, max(0.0, end - asyncio.get_running_loop().time())))
        raise NobodyAnswers(nobody_answers(request, timeout_s))

    def _endpoint(self, kind: type[Request], answer: Callable[[Any], Any], admit: Admit | None) -> Any:
        async def serve(request: "MicroRequest") -> None:
            # A task each: one long answer must not keep the others waiting.
            task = asyncio.create_task(_reply(kind, answer, admit, request))
            self._running.add(task)
            task.add_done_callback(self._running.discard)

        return serve


async def _stopped(service: "Service") -> None:
    try:
        await service.stop()
    except nats.errors.Error as error:  # the connection is down: nothing to take back
        log.debug("service.unstopped", error=str(error))


async def _reply(
    kind: type[Request], answer: Callable[[Any], Any], admit: Admit | None, request: "MicroRequest"
) -> None:
    async with aclosing(replies(kind, answer, request.data, request.headers or {}, admit)) as messages:
        async for body, headers in messages:
            try:
                await request.respond(body, headers=headers)
            except nats.errors.MaxPayloadError:
                text = f"the reply to {kind.name} has {len(body)} bytes, which is more than the server takes"
                await request.respond(text.encode(), headers={ERROR: BusError.__name__, LAST: "1"})
                return


async def _within(arrived: asyncio.Queue[Msg], request: Request, wait_s: float, says_s: float | None = None) -> Msg:
    try:
        async with asyncio.timeout(wait_s):
            return await arrived.get()
    except TimeoutError as error:
        says_s = wait_s if says_s is None else says_s
        raise Unanswered(f"{request.service} took {request.name}, but said nothing for {says_s:g} s") from error


def _replica(stats: dict[str, Any]) -> Replica:
    metadata = dict(stats.get("metadata") or {})
    id, started_at = metadata.pop(REPLICA, stats["id"]), float(metadata.pop(STARTED_AT, 0.0))
    is_ready = metadata.pop(STANDING, "") != ANNOUNCED
    done = [(endpoint.get("data") or {}).get(DONE, 0) for endpoint in stats.get("endpoints") or ()]
    return Replica(stats["name"], id, started_at, metadata, max(done, default=0), is_ready)
