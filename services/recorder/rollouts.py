"""Finds rollouts: those of the segments, and those that no segment holds yet."""

import asyncio
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec

from flash.contracts.base import FilePart
from flash.contracts.record import (
    RecordedRollout,
    RolloutsAsked,
    RolloutsExport,
    RolloutsFind,
    RolloutsPage,
)
from flash.store import Store
from services.recorder import parquet
from services.recorder.asking import Askers
from services.recorder.owning import require_own
from services.recorder.query import LIMIT, SHOWN, TOKENS, query
from services.recorder.settings import Settings
from services.recorder.shelf import Shelf
from services.recorder.writing import Writer

PART_BYTES = 512 * 1024


class Rollouts:
    """Answers `rollouts.find` and `rollouts.export`."""

    def __init__(self, store: Store, shelf: Shelf, writer: Writer, settings: Settings) -> None:
        self._store = store
        self._shelf = shelf
        self._writer = writer
        self._settings = settings
        self._askers = Askers(settings.find_memory_mib)

    async def find(self, asked: RolloutsFind) -> RolloutsPage:
        """Raises NotFound for a run that is not there, Refused for a condition or column that cannot be."""
        columns = SHOWN + TOKENS if asked.tokens else SHOWN
        async with self._files(asked) as (files, _):
            question = query(
                asked, files, within_s=self._settings.find_s, columns=", ".join(f'"{name}"' for name in columns),
                limit=max(0, min(asked.limit, LIMIT)), offset=max(0, asked.offset),
            )  # fmt: skip
            found = await self._askers.ask(question)
        rollouts: list[RecordedRollout] = []
        num_bytes = 0
        for row in found.rows:
            num_bytes += sum(len(cell) if isinstance(cell, str) else 8 * _length(cell) for cell in row)
            if rollouts and num_bytes > self._settings.page_bytes:
                break
            rollouts.append(_rollout(dict(zip(columns, row, strict=True))))
        return RolloutsPage(rollouts=rollouts, total=found.total)

    async def export(self, asked: RolloutsExport) -> AsyncIterator[FilePart]:
        async with self._files(asked) as (files, folder):
            into = folder / "export.parquet"
            await self._askers.ask(query(asked, files, within_s=self._settings.export_s, into=str(into)))
            with into.open("rb") as file:
                while data := await asyncio.to_thread(file.read, PART_BYTES):
                    yield FilePart(data=data)

    async def close(self) -> None:
        await self._askers.close()

    def tidy(self) -> None:
        """Remove what was left by recorders that died while they answered."""
        for folder in (self._settings.home / "record" / "asked").glob("*"):
            if time.time() - folder.stat().st_mtime > 2 * self._settings.export_s:
                shutil.rmtree(folder, ignore_errors=True)

    @asynccontextmanager
    async def _files(self, asked: RolloutsAsked) -> AsyncIterator[tuple[list[str], Path]]:
        """Parquet files that hold every rollout of the run once, and a folder of one's own."""
        await require_own(self._store, asked.org, asked.run_id)
        book = self._writer.book
        # What is in memory first: what leaves it meanwhile is in the store by then.
        unwritten, written = book.unwritten(asked.run_id), book.written
        folder = self._settings.home / "record" / "asked"
        folder.mkdir(parents=True, exist_ok=True)
        async with self._shelf.copies(asked.run_id, "rollouts") as (segments, paths):
            newer = [path for path, segment in zip(paths, segments, strict=True) if segment.last > written]
            stored = {id for path in newer for id in await asyncio.to_thread(parquet.group_ids, path)}
            with TemporaryDirectory(dir=folder) as own:
                tail = Path(own) / "tail.parquet"
                rest = [group for group in unwritten if group.id not in stored]
                tail.write_bytes(await asyncio.to_thread(parquet.rollouts_file, rest))
                yield [str(path) for path in (*paths, tail)], Path(own)


def _rollout(row: dict[str, Any]) -> RecordedRollout:
    for name in ("prompt", "completion", "metrics", "fault"):
        row[name] = msgspec.json.decode(row[name]) if row[name] is not None else None
    return msgspec.convert(row, RecordedRollout)


def _length(cell: Any) -> int:
    return len(cell) if isinstance(cell, list) else 1
