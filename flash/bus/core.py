"""What both buses do alike: telling, listening and reading over a stream, asking over a switchboard."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing
from typing import Any, Protocol

import msgspec

from flash.bus import Admit, Entry, EveryReplica, Pool, Replica, Shared, Told
from flash.bus.teller import Teller
from flash.bus.wire import CAUSED_BY, MESSAGE_ID, Letters, Message, Stream
from flash.bus.worker import Worker
from flash.contracts.access import LOCAL
from flash.contracts.base import Event, Request
from flash.contracts.catalogue import kind_of
from flash.errors import Damaged, NoSuchObject
from flash.logs import Log
from flash.records import Records

RETRY_S = 0.2
"""How long a message waits after its handler raised for the first time; doubles up to 5 s."""

log = Log()


class Switchboard(Protocol):
    """How requests find a replica."""

    async def announce(self, service: str, metadata: Mapping[str, str]) -> None:
        """To be found, and to answer nothing; ends with `answer`."""

    async def answer(
        self,
        service: str,
        answers: Mapping[type[Request], Callable[[Any], Any]],
        admit: Admit | None,
        metadata: Mapping[str, str],
        done: Callable[[], int],
    ) -> None:
        """`done`: how many facts the replica has worked through, asked whenever somebody looks."""

    async def ask(self, request: Request, timeout_s: float) -> Any: ...

    def stream(self, request: Request, timeout_s: float) -> AsyncIterator[Any]: ...

    async def replicas(self, wait_s: float) -> list[Replica]:
        """Those that are only announced too."""

    async def close(self, grace_s: float) -> None:
        """Take no more requests, and let those in hand finish for `grace_s`."""


class StreamBus:
    """A `Bus` over a stream and a switchboard."""

    def __init__(
        self,
        stream: Stream,
        switchboard: Switchboard,
        letters: Letters,
        records: Callable[[str], Records],
        *,
        org: str = LOCAL,
        retry_s: float = RETRY_S,
    ) -> None:
        self.org = org
        self._stream = stream
        self._switchboard = switchboard
        self._letters = letters
        self._records = records
        self._retry_s = retry_s
        self._workers: list[Worker] = []
        self._listeners: list[asyncio.Task[None]] = []

    async def publish(self, *events: Event, caused_by: str = "") -> None:
        teller = Teller(self._stream, self._letters)
        for event in events:
            await teller.tell(event, caused_by)

    async def listen(self, *subscriptions: Shared | EveryReplica) -> None:
        for subscription in subscriptions:
            if isinstance(subscription, Shared):
                consumer = await self._stream.consume(subscription)
                self._workers.append(Worker(subscription, consumer, self._stream, self._letters, retry_s=self._retry_s))
            else:
                now = await self._stream.last_sequence()
                self._listeners.append(asyncio.create_task(self._hear_every(subscription, after=now)))

    async def replay(self, *patterns: str, after: int | None = 0) -> AsyncGenerator[Told, None]:
        start = await self._stream.last_sequence() if after is None else after
        async with aclosing(self._stream.read(_once(patterns), start, follow=True)) as messages:
            async for message in messages:
                if (fact := await self._told(message)) is not None:
                    yield fact

    async def history(self, *patterns: str, after: int = 0) -> AsyncGenerator[Told, None]:
        async with aclosing(self._stream.read(_once(patterns), after, follow=False)) as messages:
            async for message in messages:
                if (fact := await self._told(message)) is not None:
                    yield fact

    async def entries(self, *patterns: str, after: int = 0) -> AsyncGenerator[Entry, None]:
        async with aclosing(self._stream.read(_once(patterns), after, follow=True)) as messages:
            async for message in messages:
                try:
                    body = await self._letters.body_of(message)
                except (NoSuchObject, Damaged) as error:  # whoever waits for it waits in vain
                    log.warning("fact.lost", subject=message.subject, sequence=message.sequence, reason=str(error))
                    continue
                said = message.headers
                id, cause = said.get(MESSAGE_ID, ""), said.get(CAUSED_BY, "")
                yield Entry(message.sequence, message.time, message.subject, id, cause, body)

    async def forget(self, *patterns: str, before: int) -> None:
        for pattern in _once(patterns):
            await self._stream.purge(pattern, before)

    async def last(self, pattern: str) -> Told | None:
        message = await self._stream.newest(pattern)
        return None if message is None else await self._told(message)

    async def announce(self, service: str, **metadata: str) -> None:
        await self._switchboard.announce(service, metadata)

    async def answer(
        self,
        service: str,
        answers: Mapping[type[Request], Callable[[Any], Any]],
        admit: Admit | None = None,
        **metadata: str,
    ) -> None:
        def done() -> int:
            return sum(one.done for one in self._workers)

        await self._switchboard.answer(service, answers, admit, metadata, done)

    async def ask(self, request: Request, timeout_s: float = 10.0) -> Any:
        return await self._switchboard.ask(request, timeout_s)

    def stream(self, request: Request, timeout_s: float = 60.0) -> AsyncIterator[Any]:
        return self._switchboard.stream(request, timeout_s)

    async def replicas(self, wait_s: float = 0.3, *, announced: bool = False) -> list[Replica]:
        found = await self._switchboard.replicas(wait_s)
        return [replica for replica in found if replica.is_ready or announced]

    async def pools(self) -> list[Pool]:
        return await self._stream.pools()

    def records(self, bucket: str) -> Records:
        return self._records(bucket)

    async def close(self, grace_s: float = 5.0) -> None:
        for listener in self._listeners:
            listener.cancel()
        await asyncio.gather(
            self._switchboard.close(grace_s),
            *(worker.close(grace_s) for worker in self._workers),
            *self._listeners,
            return_exceptions=True,
        )
        self._workers, self._listeners = [], []

    async def _told(self, message: Message) -> Told | None:
        """None, and a line in the log, for what cannot be decoded: a newer Flash may have said it."""
        try:
            event = kind_of(message.subject).decode(await self._letters.body_of(message))
        except (LookupError, msgspec.ValidationError, msgspec.DecodeError) as error:
            log.warning("fact.unreadable", subject=message.subject, sequence=message.sequence, reason=str(error))
            return None
        return Told(event, message.sequence, message.time, message.headers.get(CAUSED_BY, ""), message.pending)

    async def _hear_every(self, subscription: EveryReplica, after: int) -> None:
        patterns = tuple(event.pattern() for event in subscription.events)
        async with aclosing(self.replay(*patterns, after=after)) as facts:
            async for fact in facts:
                try:
                    await subscription.handler(fact.event)
                except Exception:
                    log.exception("handler.failed", subject=fact.event.subject)


def _once(patterns: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(patterns))
