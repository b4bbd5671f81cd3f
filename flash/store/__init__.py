"""Objects by key: `memory` for tests, `files` for one machine, `s3` for everything else.

Keys read like paths. An object is written whole or not at all, and its sha256 is checked when it is read.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from flash.errors import AlreadyThere, Damaged, NoSuchObject, StoreError

__all__ = ["AlreadyThere", "Damaged", "NoSuchObject", "Stat", "Store", "StoreError", "open_store"]


@dataclass(frozen=True)
class Stat:
    """What is known of an object without reading it."""

    key: str
    num_bytes: int
    digest: str
    """sha256 of the content, in hex."""


class Store(Protocol):
    """What every process has of the store. Blocking work never sits on the event loop."""

    async def put(self, key: str, data: bytes, *, if_absent: bool = False) -> Stat:
        """Raises AlreadyThere with `if_absent` when there is an object: exactly one of many such puts wins."""

    async def put_file(self, key: str, path: Path) -> Stat:
        """Stream a file of any size, in parts above 16 MiB."""

    async def get(self, key: str) -> bytes:
        """Raises NoSuchObject, and Damaged when the digest differs."""

    async def get_range(self, key: str, start: int, num_bytes: int) -> bytes:
        """Some of the object's bytes, fewer at its end, and unchecked: whoever has all of them checks their digest.

        Raises NoSuchObject.
        """

    async def get_file(self, key: str, path: Path) -> Stat:
        """Stream into a file, which appears whole or not at all."""

    async def stat(self, key: str) -> Stat | None: ...

    def list(self, prefix: str) -> AsyncIterator[Stat]:
        """Every object whose key starts with `prefix`, in the order of keys; digests may be empty."""

    async def delete(self, key: str) -> None:
        """Deleting what is not there is fine."""


async def open_store(url: str) -> Store:
    """`memory:`, `file:///folder`, or `s3://ACCESS:SECRET@host:port/bucket` (`?tls=1` for https).

    Raises StoreError for a url it cannot use, and when the bucket can be neither found nor made.
    """
    scheme, _, rest = url.partition(":")
    if scheme == "memory":
        from flash.store.memory import MemoryStore

        return MemoryStore()
    if scheme == "file":
        from flash.store.files import FileStore

        return FileStore(Path(rest.removeprefix("//")))
    if scheme == "s3":
        from flash.store.s3 import S3Store

        return await S3Store.connect(url)
    raise StoreError(f"the store is {url.split('@')[-1]!r}, but a store is memory:, file:///folder or s3://...")
