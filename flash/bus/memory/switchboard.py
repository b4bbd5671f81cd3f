"""Requests within one process."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec

from flash.bus import Admit, Replica
from flash.bus.answering import asking, is_last, let_go, nobody_answers, read_reply, replies
from flash.bus.memory.clock import Clock
from flash.contracts.base import Request, request_subject
from flash.errors import BusError, NobodyAnswers, Unanswered

POLL_S = 0.02


@dataclass(eq=False)
class Desk:
    """One replica that answers."""

    replica: Replica
    answers: Mapping[str, Callable[[Any], Any]]
    """By subject."""
    done: Callable[[], int]
    admit: Admit | None
    running: set[asyncio.Task[None]] = field(default_factory=set)


class MemorySwitchboard:
    """Asks the replicas in turn."""

    def __init__(self, desks: list[Desk], clock: Clock, *, replica: str, token: str = "") -> None:
        self._desks = desks
        self._clock = clock
        self._replica = replica
        self._token = token
        self._own: list[Desk] = []

    async def announce(self, service: str, metadata: Mapping[str, str]) -> None:
        coming = Replica(service, self._replica, self._clock.time(), dict(metadata), is_ready=False)
        self._sit(Desk(coming, {}, lambda: 0, None))

    async def answer(
        self,
        service: str,
        answers: Mapping[type[Request], Callable[[Any], Any]],
        admit: Admit | None,
        metadata: Mapping[str, str],
        done: Callable[[], int],
    ) -> None:
        replica = Replica(service, self._replica, self._clock.time(), dict(metadata))
        by_subject = {
            request_subject(kind, metadata[kind.route] if kind.route else None): answer
            for kind, answer in answers.items()
        }
        for desk in [desk for desk in self._own if not desk.replica.is_ready and desk.replica.service == service]:
            self._own.remove(desk)
            self._desks.remove(desk)
        self._sit(Desk(replica, by_subject, done, admit))

    async def ask(self, request: Request, timeout_s: float) -> Any:
        async with aclosing(self.stream(request, timeout_s)) as parts:
            async for part in parts:
                return part
        raise BusError(f"{request.service} answered {request.name} with nothing")

    async def stream(self, request: Request, timeout_s: float) -> AsyncGenerator[Any, None]:
        desk = await self._desk(request, timeout_s)
        arrived: asyncio.Queue[tuple[bytes, dict[str, str]]] = asyncio.Queue()
        body = msgspec.msgpack.encode(request)

        async def work() -> None:
            answer = desk.answers[request.subject]
            async for reply in replies(type(request), answer, body, asking(self._token), desk.admit):
                arrived.put_nowait(reply)

        task = asyncio.create_task(work())
        desk.running.add(task)
        task.add_done_callback(desk.running.discard)
        while True:
            try:
                data, headers = await asyncio.wait_for(arrived.get(), timeout_s)
            except TimeoutError as error:
                raise Unanswered(
                    f"{request.service} took {request.name}, but said nothing for {timeout_s:g} s"
                ) from error
            part = read_reply(type(request), data, headers)
            if part is not None:
                yield part
            if is_last(headers):
                return

    async def replicas(self, wait_s: float) -> list[Replica]:
        return [replace(desk.replica, done=desk.done()) for desk in self._desks]

    async def close(self, grace_s: float) -> None:
        for desk in self._own:
            self._desks.remove(desk)
        running = {task for desk in self._own for task in desk.running}
        self._own = []
        await let_go(running, grace_s)

    def _sit(self, desk: Desk) -> None:
        self._own.append(desk)
        self._desks.append(desk)

    async def _desk(self, request: Request, timeout_s: float) -> Desk:
        end = asyncio.get_running_loop().time() + timeout_s
        while True:
            for desk in self._desks:
                if request.subject in desk.answers:
                    self._desks.remove(desk)
                    self._desks.append(desk)  # the next one's turn
                    return desk
            if asyncio.get_running_loop().time() >= end:
                raise NobodyAnswers(nobody_answers(request, timeout_s))
            await asyncio.sleep(POLL_S)
