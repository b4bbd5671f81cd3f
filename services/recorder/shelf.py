"""The segments of runs' records: in the store, and as copies on this machine."""

import asyncio
import os
import shutil
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from flash.contracts.keys import record_folder, record_key, run_prefix
from flash.errors import AlreadyThere, NoSuchObject
from flash.store import Store
from services.recorder.parquet import Kind

LISTED_AT_MOST = 5
"""How often segments are listed anew that were merged before they were fetched."""


@dataclass(frozen=True)
class StoredSegment:
    """What a run's facts from one position of the stream to another left."""

    key: str
    first: int
    last: int
    num_bytes: int


class Shelf:
    """Segments never change, so a copy is good for ever; those used longest ago go when there are too many.

    Small ones are merged in time (`services.recorder.merging`), and then gone from the store.
    """

    def __init__(self, store: Store, folder: Path, cache_bytes: int) -> None:
        self._store = store
        self._folder = folder / "copies"
        self._cache_bytes = cache_bytes
        self._in_use: Counter[Path] = Counter()

    async def put(self, run_id: str, kind: Kind, first: int, last: int, data: bytes) -> None:
        """The segment is in the store: by us, or by whoever wrote the same before."""
        with suppress(AlreadyThere):
            await self._store.put(record_key(run_id, kind, first, last), data, if_absent=True)

    async def segments(self, run_id: str, kind: Kind) -> list[StoredSegment]:
        """In the order of the stream, without parts of merged ones."""
        return apart(await self._all(run_id, kind))[0]

    async def superseded(self, run_id: str, kind: Kind) -> list[StoredSegment]:
        """Parts of merged ones that are still there."""
        return apart(await self._all(run_id, kind))[1]

    async def drop(self, run_id: str) -> None:
        """The copies of a run that was deleted."""
        await asyncio.to_thread(shutil.rmtree, self._folder / run_prefix(run_id), ignore_errors=True)

    @asynccontextmanager
    async def copies(
        self, run_id: str, kind: Kind, *, after: int = 0
    ) -> AsyncIterator[tuple[list[StoredSegment], list[Path]]]:
        """The segments that reach beyond a position, and files with their content until the block ends."""
        for again in reversed(range(LISTED_AT_MOST)):
            segments = [segment for segment in await self.segments(run_id, kind) if segment.last > after]
            async with AsyncExitStack() as using:
                try:
                    paths = await using.enter_async_context(self._copied(segments))
                except NoSuchObject:  # merged since they were listed
                    if not again:
                        raise
                    continue
                yield segments, paths
                return

    async def _all(self, run_id: str, kind: Kind) -> list[StoredSegment]:
        stats = self._store.list(record_folder(run_id, kind))
        return [StoredSegment(stat.key, *_positions(stat.key), stat.num_bytes) async for stat in stats]

    @asynccontextmanager
    async def _copied(self, segments: Sequence[StoredSegment]) -> AsyncIterator[list[Path]]:
        paths = [self._folder / segment.key for segment in segments]
        self._in_use.update(paths)
        try:
            for segment, path in zip(segments, paths, strict=True):
                await self._fetch(segment, path)
            yield paths
        finally:
            self._in_use.subtract(paths)
            await asyncio.to_thread(self._tidy)

    async def _fetch(self, segment: StoredSegment, path: Path) -> None:
        try:
            os.utime(path)
        except FileNotFoundError:
            path.parent.mkdir(parents=True, exist_ok=True)
            await self._store.get_file(segment.key, path)

    def _tidy(self) -> None:
        there: list[tuple[Path, os.stat_result]] = []
        for path in self._folder.rglob("*.parquet"):
            with suppress(FileNotFoundError):  # somebody else tidies too
                there.append((path, path.stat()))
        too_many_bytes = sum(stat.st_size for _, stat in there) - self._cache_bytes
        for path, stat in sorted(there, key=lambda found: found[1].st_mtime):
            if too_many_bytes <= 0:
                return
            if not self._in_use[path]:
                path.unlink(missing_ok=True)
                too_many_bytes -= stat.st_size


def apart(segments: Iterable[StoredSegment]) -> tuple[list[StoredSegment], list[StoredSegment]]:
    """Those that hold everything once, in order, and those that are parts of them."""
    whole: list[StoredSegment] = []
    parts: list[StoredSegment] = []
    for segment in sorted(segments, key=lambda segment: (segment.first, -segment.last)):
        (parts if whole and segment.last <= whole[-1].last else whole).append(segment)
    return whole, parts


def _positions(key: str) -> tuple[int, int]:
    first, _, last = Path(key).stem.partition("-")
    return int(first), int(last)
