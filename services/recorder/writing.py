"""Writes the stream down, segment by segment. May be killed at any moment.

A record says up to which position everything is written (`done`) and up to which the next segments reach (`upto`).
Where they reach is settled before the first is written; so whoever takes over, or is at it at the same time, writes the
same segments under the same names, and the first stands.
"""

import asyncio
from collections.abc import Callable
from contextlib import aclosing, suppress

import msgspec
import structlog

from flash import chaos
from flash.bus import Bus, Entry
from flash.contracts.runs import LAST_WORDS, AttemptEvent, RunResumed
from flash.contracts.steps import StepFinished
from flash.records import Records
from flash.store import Store
from services.recorder.book import Book, LastWord, Segment
from services.recorder.parquet import events_file, rollouts_file
from services.recorder.settings import Settings
from services.recorder.shelf import Shelf
from services.recorder.trimming import Trimmer
from services.recorder.usage import Usage

POSITION = "position"
"""The id of the record."""
LOOK_S = 1.0
"""How often it is looked whether what has been read waits long enough."""
ROOM = 4
"""How many segments' worth of facts may wait in memory."""

log = structlog.get_logger()


class Position(msgspec.Struct, frozen=True):
    """How far the stream is written down."""

    done: int = 0
    upto: int = 0
    """Larger than `done` while segments are being written."""
    begin: int = 0
    """Where reading must begin again, to know what the segments after `done` need."""


class Writer:
    """Reads every fact about runs, and keeps it until it lies in a segment."""

    def __init__(
        self,
        bus: Bus,
        store: Store,
        records: Records,
        shelf: Shelf,
        usage: Usage,
        settings: Settings,
        *,
        now: Callable[[], float],
    ) -> None:
        self._bus = bus
        self._records = records
        self._shelf = shelf
        self._usage = usage
        self._settings = settings
        self._now = now
        self._trimmer = Trimmer(bus, store, settings.keep_steps)
        self.book = Book(written=0)
        self._waits_since: float | None = None
        self._due = asyncio.Event()
        self._room = asyncio.Event()

    async def watch(self) -> None:
        """Read and write until cancelled."""
        position = _decoded(await self._records.get(POSITION))
        self.book = Book(written=position.done)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._read(position.begin))
            tasks.create_task(self._write())

    async def _read(self, begin: int) -> None:
        async with aclosing(self._bus.entries("flash.>", after=begin)) as entries:  # type: ignore[type-var]
            async for entry in entries:
                if whose := self.book.lacks(entry):
                    finished = await self._finished_before(entry, *whose)
                    self.book.open(*whose, finished=finished, ended=await self._ended_before(entry, *whose))
                self.book.add(entry)
                if self._waits_since is None:
                    self._waits_since = asyncio.get_running_loop().time()
                if self._is_due():
                    self._due.set()
                while self.book.num_bytes > ROOM * self._settings.segment_bytes:
                    self._room.clear()
                    await self._room.wait()

    async def _ended_before(self, entry: Entry, org: str, run_id: str) -> LastWord | None:
        ended = None
        kinds: tuple[type[AttemptEvent], ...] = (*LAST_WORDS, RunResumed)
        patterns = [kind.pattern(org=org, run_id=run_id) for kind in kinds]
        async for told in self._bus.history(*patterns):
            if told.sequence < entry.sequence and isinstance(told.event, AttemptEvent):
                is_over = not isinstance(told.event, RunResumed)
                ended = LastWord(told.sequence, told.time, told.event.attempt) if is_over else None
        return ended

    async def _finished_before(self, entry: Entry, org: str, run_id: str) -> int:
        newest = 0
        async for told in self._bus.history(StepFinished.pattern(org=org, run_id=run_id)):
            if told.sequence < entry.sequence and isinstance(told.event, StepFinished):
                newest = max(newest, told.event.step)
        return newest

    async def _write(self) -> None:
        while True:
            if not await self.cut() or not self._is_due():
                self._due.clear()
                with suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_S):
                        await self._due.wait()
            for event in self.book.closing(self._now(), self._settings.settle_s):
                await self._bus.publish(event)
                self.book.close(event.run_id)

    def _is_due(self) -> bool:
        if self.book.num_bytes >= self._settings.segment_bytes or self.book.has_ended:
            return True
        waits_since = self._waits_since
        return waits_since is not None and asyncio.get_running_loop().time() - waits_since >= self._settings.segment_s

    async def cut(self) -> bool:
        """Write what was read, if it is time or somebody has begun to; whether anything was."""
        if not self.book.num_bytes:
            return False
        wanted = self.book.read if self._is_due() else 0
        document = await self._records.update(POSITION, lambda found: _planned(found, wanted))
        plan = _decoded(document)
        self._forget(plan.done)
        if plan.upto <= plan.done or plan.upto > self.book.read:
            return False
        chaos.point("planned")
        read_until, self._waits_since = self.book.read, None
        for segment in list(self.book.segments(plan.upto)):
            await self._put(segment, plan.done + 1, plan.upto)
            await self._usage.add(segment, plan.upto)
            chaos.point("segment-stored")
        begin = self.book.begin(plan.upto)
        await self._records.update(POSITION, lambda found: _done(found, plan.upto, begin))
        chaos.point("recorded")
        self._forget(plan.upto)
        for org, run_id in self.book.saved():
            await self._trimmer.trim(org, run_id, plan.upto)
        if read_until > plan.upto and self._waits_since is None:
            self._waits_since = asyncio.get_running_loop().time()
        return True

    def _forget(self, upto: int) -> None:
        self.book.forget(upto)
        self._room.set()

    async def _put(self, segment: Segment, first: int, last: int) -> None:
        # The rollouts first: where a run has a segment of events, that of its rollouts is there.
        if segment.rollouts:
            data = await asyncio.to_thread(rollouts_file, segment.rollouts)
            await self._shelf.put(segment.run_id, "rollouts", first, last, data)
        data = await asyncio.to_thread(events_file, segment.events)
        await self._shelf.put(segment.run_id, "events", first, last, data)
        log.debug("segment.written", run_id=segment.run_id, first=first, last=last, events=len(segment.events))


def _decoded(document: bytes | None) -> Position:
    return msgspec.json.decode(document, type=Position) if document else Position()


def _planned(found: bytes | None, wanted: int) -> bytes | None:
    position = _decoded(found)
    if position.upto > position.done or wanted <= position.done:
        return found
    return msgspec.json.encode(msgspec.structs.replace(position, upto=wanted))


def _done(found: bytes | None, upto: int, begin: int) -> bytes | None:
    position = _decoded(found)
    if position.done >= upto:
        return found
    return msgspec.json.encode(Position(done=upto, upto=upto, begin=begin))
