"""Small state with compare-and-set. JetStream keeps it in `flash.bus.jetstream`; this is one process."""

from collections.abc import Callable, Mapping
from typing import Protocol

from flash.errors import FlashError


class Records(Protocol):
    """Documents by id, each changed by a pure function of what it was."""

    async def update(self, id: str, fn: Callable[[bytes | None], bytes | None]) -> bytes | None:
        """Replace the document by `fn(document)`, again from the start if somebody else was faster; gives what stands.

        `fn` gets and gives None for "no document". It may run several times, so it must be pure.
        """

    async def get(self, id: str) -> bytes | None: ...

    async def all(self, under: str = "") -> Mapping[str, bytes]:
        """Every document, or those whose ids begin with `under` and a dot."""


class MemoryRecords:
    """Records of one process."""

    def __init__(self) -> None:
        self._documents: dict[str, bytes] = {}

    async def update(self, id: str, fn: Callable[[bytes | None], bytes | None]) -> bytes | None:
        document = fn(self._documents.get(id))
        if document is None:
            self._documents.pop(id, None)
        else:
            self._documents[id] = document
        return document

    async def get(self, id: str) -> bytes | None:
        return self._documents.get(id)

    async def all(self, under: str = "") -> Mapping[str, bytes]:
        prefix = f"{under}." if under else ""
        return {id: document for id, document in self._documents.items() if id.startswith(prefix)}


class TooBusy(FlashError):
    """A document was changed by others faster than we could."""
