"""Many small segments become few large ones: as a run goes on, and for good when its record is closed.

What a merged segment holds is what its parts held, under a name that spans theirs. It is stored before they are
deleted; in between, and wherever a recorder died in between, a part is known by its name and read no more.
"""

import asyncio
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import structlog

from flash import chaos
from flash.bus import Bus, Shared
from flash.contracts.base import Event
from flash.contracts.keys import record_key
from flash.contracts.record import RecordClosed
from flash.contracts.runs import RunDeleted
from flash.contracts.steps import StepSaved
from flash.store import Store
from services.recorder import parquet
from services.recorder.parquet import Kind
from services.recorder.settings import Settings
from services.recorder.shelf import Shelf, StoredSegment

KINDS: tuple[Kind, ...] = ("rollouts", "events")
LIVE_PARTS = 32
"""Of a run that goes on, so many small segments are worth merging."""

log = structlog.get_logger()


class Merger:
    """Remembers nothing: whoever merges again finds it done."""

    def __init__(self, bus: Bus, store: Store, shelf: Shelf, settings: Settings) -> None:
        self._bus = bus
        self._store = store
        self._shelf = shelf
        self._folder = settings.home / "record" / "merging"
        self._target_bytes = settings.merged_bytes

    def subscriptions(self) -> tuple[Shared, ...]:
        """Each done by one recorder; one that dies leaves it to another."""
        return (
            Shared("recorder-saves", StepSaved, self.on_step_saved),
            Shared("recorder-closings", RecordClosed, self.on_record_closed),
        )

    async def on_step_saved(self, event: StepSaved) -> list[Event]:
        await self._merge_run(event.org, event.run_id, at_least=LIVE_PARTS)
        return []

    async def on_record_closed(self, event: RecordClosed) -> list[Event]:
        await self._merge_run(event.org, event.run_id, at_least=2)
        return []

    async def _merge_run(self, org: str, run_id: str, *, at_least: int) -> None:
        for kind in KINDS:
            segments = await self._shelf.segments(run_id, kind)
            for parts in worth_merging(segments, target_bytes=self._target_bytes, at_least=at_least):
                await self._merge(org, run_id, kind, parts)
            for left in await self._shelf.superseded(run_id, kind):
                await self._store.delete(left.key)

    async def _merge(self, org: str, run_id: str, kind: Kind, parts: Sequence[StoredSegment]) -> None:
        """Raises NoSuchObject where another recorder merges the same meanwhile: it is tried again, and found done."""
        key = record_key(run_id, kind, parts[0].first, parts[-1].last)
        os.makedirs(self._folder, exist_ok=True)
        with TemporaryDirectory(dir=self._folder) as own:
            paths = [Path(own, f"{number}.parquet") for number in range(len(parts))]
            for part, path in zip(parts, paths, strict=True):
                await self._store.get_file(part.key, path)
            whole = Path(own, "whole.parquet")
            rows = await asyncio.to_thread(parquet.merge, paths, whole)
            await self._store.put_file(key, whole)
        # Meanwhile the run may have been deleted, and who erases it have passed here already.
        if await self._bus.last(RunDeleted.pattern(org=org, run_id=run_id)):
            await self._store.delete(key)
        chaos.point("segments-merged")
        for part in parts:
            await self._store.delete(part.key)
        log.info("segments.merged", run_id=run_id, kind=kind, segments=len(parts), rows=rows, key=key)


def worth_merging(
    segments: Sequence[StoredSegment], *, target_bytes: int, at_least: int
) -> Iterator[Sequence[StoredSegment]]:
    """Neighbours that are small alone: until they are large together, and the last of them if there are `at_least`.

    Always the same from the first segment on, so that two who merge at once make the same, or one the beginning of
    the other's.
    """
    parts: list[StoredSegment] = []
    for segment in segments:
        if segment.num_bytes < target_bytes:
            parts.append(segment)
        if parts and (segment.num_bytes >= target_bytes or sum(part.num_bytes for part in parts) >= target_bytes):
            if len(parts) > 1:
                yield parts
            parts = []
    if len(parts) >= at_least:
        yield parts
