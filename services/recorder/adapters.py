"""Gives out the adapters of runs, for whoever takes them elsewhere."""

from collections.abc import AsyncIterator

from flash.contracts.base import FilePart
from flash.contracts.keys import adapter_key
from flash.contracts.record import AdapterFetch
from flash.errors import NoSuchObject, NotFound
from flash.store import Store
from services.recorder.owning import require_own

PART_BYTES = 512 * 1024
STRETCH_PARTS = 8
"""Parts of a file that one fetch gives: what may wait for a slow reader."""


class Adapters:
    """Answers `adapter.fetch`."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def fetch(self, asked: AdapterFetch) -> AsyncIterator[FilePart]:
        """A stretch of the file; nothing behind its end. Raises NotFound for an adapter that the run does not have."""
        await require_own(self._store, asked.org, asked.run_id)
        key = f"{adapter_key(asked.run_id, asked.digest)}/{asked.file}"
        begin = max(0, asked.start)
        for start in range(begin, begin + STRETCH_PARTS * PART_BYTES, PART_BYTES):
            try:
                data = await self._store.get_range(key, start, PART_BYTES)
            except NoSuchObject:
                raise NotFound(f"{asked.run_id} has no adapter {asked.digest[:12]} any more") from None
            if not data:
                return
            yield FilePart(data=data)
