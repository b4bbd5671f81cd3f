"""What every kind of store shares: which keys it takes, digests, and files that appear whole or not at all."""

import hashlib
import os
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from flash.errors import Damaged, StoreError

CHUNK_BYTES = 1 << 20
"""How much of a file is held in memory at a time."""

_KEY = re.compile(r"[A-Za-z0-9._=@+-]+(/[A-Za-z0-9._=@+-]+)*")


def checked_key(key: str) -> str:
    """The key itself. Raises StoreError for one that some store would read differently, or that leaves its folder."""
    if len(key) > 900 or not _KEY.fullmatch(key) or any(part in (".", "..") for part in key.split("/")):
        raise StoreError(
            f"{key[:80]!r} cannot be a key: write parts of letters, digits and . _ = @ + - with single slashes between"
        )
    return key


def digest_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def digest_of_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check(key: str, *, found: str, wanted: str) -> None:
    """Raises Damaged when the digests differ."""
    if found != wanted:
        raise Damaged(f"{key} has the digest {found[:12]}, but was written with {wanted[:12] or 'none'}: restore it")


class Part:
    """A file in the making: counts and digests what it is given."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self.num_bytes = 0

    def write(self, data: bytes) -> None:
        self._file.write(data)
        self._digest.update(data)
        self.num_bytes += len(data)

    @property
    def digest(self) -> str:
        return self._digest.hexdigest()

    def sync(self) -> None:
        """Have the disk hold it, so that a power cut cannot leave a name without its content."""
        self._file.flush()
        os.fsync(self._file.fileno())


@contextmanager
def whole_file(path: Path) -> Iterator[Part]:
    """Write beside `path` and rename at the end; an error leaves what was there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        with beside.open("xb") as file:
            yield Part(file)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
