"""The recorder: writes runs down, and answers what was said about them from what is written and from the stream."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Any

import msgspec

from flash.bus import Bus, EveryReplica, Shared
from flash.contracts.base import Event, Request
from flash.contracts.catalogue import EVENTS, kind_of, noun_pattern
from flash.contracts.hosting import SealingKey
from flash.contracts.record import AdapterFetch, RolloutsExport, RolloutsFind
from flash.contracts.requests import EventsFind, EventsPage, RecordedEvent, RecorderKey
from flash.contracts.runs import RunDeleted
from flash.contracts.usage import UsageSum
from flash.errors import Refused
from flash.secrets import KeyPair
from flash.store import Store
from services.recorder.adapters import Adapters
from services.recorder.boards import Boards
from services.recorder.book import address
from services.recorder.erasing import Eraser
from services.recorder.merging import Merger
from services.recorder.parquet import read_events
from services.recorder.rollouts import Rollouts
from services.recorder.settings import Settings
from services.recorder.shelf import Shelf
from services.recorder.usage import Usage
from services.recorder.writing import Writer

NOUNS = sorted({row.event.name.split(".")[0] for row in EVENTS if "run_id" in row.event.address})
QUIET_NOUNS = [noun for noun in NOUNS if noun != "group"]
"""What is told when nothing is asked for by name: groups are many and large."""


class Recorder:
    """Any number of replicas may write: see `services.recorder.writing`."""

    def __init__(self, bus: Bus, store: Store, settings: Settings, now: Callable[[], float]) -> None:
        self._bus = bus
        self._settings = settings
        self._shelf = Shelf(store, settings.home / "record", settings.cache_bytes)
        self._usage = Usage(bus.records("usage"))
        self.writer = Writer(bus, store, bus.records("recorder"), self._shelf, self._usage, settings, now=now)
        self._rollouts = Rollouts(store, self._shelf, self.writer, settings)
        self._adapters = Adapters(store)
        self._keys = KeyPair.kept(settings.key_file or settings.home / "keys" / "recorder")
        self._eraser = Eraser(bus, store)
        self._merger = Merger(bus, store, self._shelf, settings)
        self._boards = Boards(bus, store, self._keys, settings)

    def subscriptions(self) -> tuple[Shared | EveryReplica, ...]:
        dropped = EveryReplica((RunDeleted,), self.on_run_deleted)
        shared = (*self._boards.subscriptions(), *self._merger.subscriptions(), *self._eraser.subscriptions())
        return (*shared, dropped)

    def answers(self) -> Mapping[type[Request], Callable[[Any], Any]]:
        return {
            RecorderKey: self.on_key_fetch,
            EventsFind: self.on_events_find,
            RolloutsFind: self._rollouts.find,
            RolloutsExport: self._rollouts.export,
            AdapterFetch: self._adapters.fetch,
            UsageSum: self._usage.on_usage_sum,
        }

    async def watch(self) -> None:
        """Write runs down until cancelled."""
        await asyncio.to_thread(self._rollouts.tidy)
        await self.writer.watch()

    async def close(self) -> None:
        await self._rollouts.close()

    async def on_run_deleted(self, event: RunDeleted) -> None:
        await self._shelf.drop(event.run_id)

    async def on_key_fetch(self, request: RecorderKey) -> SealingKey:
        return SealingKey(public=self._keys.public)

    async def on_events_find(self, request: EventsFind) -> EventsPage:
        """A page of what was said after a position; waits for news if there is none and the asker wants to."""
        if unknown := set(request.nouns) - set(NOUNS):
            raise Refused(f"there are no facts about {sorted(unknown)}: the nouns are {', '.join(NOUNS)}")
        nouns = request.nouns or QUIET_NOUNS
        page = await self._page(nouns, request)
        if not page.events and request.wait_s > 0 and await self._news(nouns, request):
            page = await self._page(nouns, request)
        return page

    async def _page(self, nouns: list[str], request: EventsFind) -> EventsPage:
        events: list[RecordedEvent] = []
        num_bytes = 0
        async with aclosing(self._said(nouns, request)) as said:  # type: ignore[type-var]
            async for event, has_more in said:
                num_bytes += len(msgspec.msgpack.encode(event))
                if events and num_bytes > self._settings.page_bytes:
                    return EventsPage(events=events, upto=events[-1].sequence, more=True)
                events.append(event)
                if len(events) == self._settings.page_events:
                    return EventsPage(events=events, upto=event.sequence, more=has_more)
        return EventsPage(events=events, upto=events[-1].sequence if events else request.after, more=False)

    async def _said(self, nouns: list[str], request: EventsFind) -> AsyncIterator[tuple[RecordedEvent, bool]]:
        """In order, each with whether others may follow. Groups leave the stream in time: they are in the record."""
        after = request.after
        page = (self._settings.page_events, self._settings.page_bytes)
        if "group" in nouns:
            async with self._shelf.copies(request.run_id, "events", after=after) as (segments, paths):
                for path in paths:
                    for event in await asyncio.to_thread(_recorded_in, path, request, nouns, *page):
                        yield event, True
            after = max([after, *(segment.last for segment in segments)])
        patterns = [p for noun in nouns for p in noun_pattern(noun, request.org, request.run_id, request.step)]
        async for told in self._bus.history(*patterns, after=after):
            cause = told.caused_by
            yield recorded(told.event, sequence=told.sequence, time=told.time, caused_by=cause), told.pending > 0

    async def _news(self, nouns: list[str], request: EventsFind) -> bool:
        patterns = [p for noun in nouns for p in noun_pattern(noun, request.org, request.run_id, request.step)]
        try:
            async with asyncio.timeout(min(request.wait_s, self._settings.max_wait_s)):
                async for _ in self._bus.replay(*patterns, after=request.after):
                    return True
        except TimeoutError:
            pass
        return False


def recorded(event: Event, *, sequence: int, time: float, caused_by: str) -> RecordedEvent:
    """A fact as people read it: without packed arrays."""
    body = msgspec.to_builtins(event, builtin_types=(bytes,))
    return RecordedEvent(
        sequence=sequence, time=time, subject=event.subject, caused_by=caused_by, event=event.name,
        body=_readable(body),
    )  # fmt: skip


def _recorded_in(path: Path, request: EventsFind, nouns: list[str], most: int, most_bytes: int) -> list[RecordedEvent]:
    """The facts of a segment that are asked for, a page of them; none of somebody else's run."""

    def wanted(sequence: int, subject: str) -> bool:
        said = address(subject)
        if said is None or said["org"] != request.org or subject.split(".")[1] not in nouns:
            return False
        return sequence > request.after and request.step in (None, int(said.get("step", -1)))

    found: list[RecordedEvent] = []
    num_bytes = 0
    for entry in read_events(path, wanted):
        event = kind_of(entry.subject).decode(entry.body)
        found.append(recorded(event, sequence=entry.sequence, time=entry.time, caused_by=entry.caused_by))
        num_bytes += len(msgspec.msgpack.encode(found[-1]))
        if num_bytes > most_bytes or len(found) == most:
            break
    return found


def _readable(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _readable(v) for name, v in value.items() if not isinstance(v, bytes)}
    if isinstance(value, list):
        return [_readable(v) for v in value]
    return value
