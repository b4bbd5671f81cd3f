"""A store in a folder of this machine, for any number of processes.

    content/<ab>/<sha256>.<unique>   what was put, once a put, never changed
    objects/<key>                    a link to it

An object is its link: made in one step, it is there or it is not, and the name it leads to carries the digest. A
process that dies between content and link leaves some bytes that nothing names, and no other trace. Whatever reads
files (pandas, tar, rsync -a) can use `objects/` as it is.
"""

import asyncio
import fcntl
import hashlib
import os
import uuid
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TypeVar

from flash.store import AlreadyThere, NoSuchObject, Stat, StoreError
from flash.store.whole import CHUNK_BYTES, check, checked_key, whole_file

T = TypeVar("T")


class FileStore:
    """Objects in a folder, which is made when it is first written to."""

    def __init__(self, root: Path) -> None:
        self._root = root.expanduser().absolute()
        self._objects = self._root / "objects"

    async def put(self, key: str, data: bytes, *, if_absent: bool = False) -> Stat:
        return await self._do(lambda: self._put(checked_key(key), (data,), if_absent=if_absent))

    async def put_file(self, key: str, path: Path) -> Stat:
        return await self._do(lambda: self._put(checked_key(key), _chunks(path)))

    async def get(self, key: str) -> bytes:
        return await self._do(lambda: b"".join(self._read(checked_key(key))))

    async def get_range(self, key: str, start: int, num_bytes: int) -> bytes:
        return await self._do(lambda: self._get_range(checked_key(key), start, num_bytes))

    async def get_file(self, key: str, path: Path) -> Stat:
        return await self._do(lambda: self._get_file(checked_key(key), path))

    async def stat(self, key: str) -> Stat | None:
        return await self._do(lambda: self._stat(checked_key(key)))

    async def list(self, prefix: str) -> AsyncIterator[Stat]:
        for stat in await self._do(lambda: self._found(prefix)):
            yield stat

    async def delete(self, key: str) -> None:
        await self._do(lambda: self._delete(checked_key(key)))

    async def _do(self, work: Callable[[], T]) -> T:
        try:
            return await asyncio.to_thread(work)
        except OSError as error:
            raise StoreError(f"the store in {self._root} cannot be used: {error}") from error

    def _put(self, key: str, chunks: Iterable[bytes], *, if_absent: bool = False) -> Stat:
        unique = uuid.uuid4().hex
        coming = self._root / "content" / unique
        with whole_file(coming) as part:
            for chunk in chunks:
                part.write(chunk)
            part.sync()
        content = coming.parent / part.digest[:2] / f"{part.digest}.{unique}"
        content.parent.mkdir(exist_ok=True)
        coming.rename(content)
        try:
            self._link(key, content, if_absent=if_absent)
        except BaseException:
            content.unlink()
            raise
        return Stat(key, part.num_bytes, part.digest)

    def _link(self, key: str, content: Path, *, if_absent: bool) -> None:
        link = self._objects / key
        coming = content.with_suffix(".link")
        with self._alone():
            before = self._content(key)
            if before and if_absent:
                raise AlreadyThere(f"{key} is there already")
            link.parent.mkdir(parents=True, exist_ok=True)
            coming.unlink(missing_ok=True)
            coming.symlink_to(os.path.relpath(content, link.parent))
            coming.replace(link)
            if before:
                before.unlink(missing_ok=True)

    def _delete(self, key: str) -> None:
        link = self._objects / key
        with self._alone():
            if not (content := self._content(key)):
                return
            link.unlink()
            content.unlink(missing_ok=True)
            for folder in link.parents:
                if folder == self._objects or any(folder.iterdir()):
                    break
                folder.rmdir()

    def _read(self, key: str) -> Iterator[bytes]:
        """The content in chunks; raises Damaged at its end, so use nothing of it before."""
        file, digest = self._open(key)
        found = hashlib.sha256()
        with file:
            while chunk := file.read(CHUNK_BYTES):
                found.update(chunk)
                yield chunk
        check(key, found=found.hexdigest(), wanted=digest)

    def _open(self, key: str) -> tuple[BinaryIO, str]:
        while content := self._content(key):
            try:
                return content.open("rb"), _digest(content)
            except FileNotFoundError:
                # Put anew or deleted since we read the link; a link that leads nowhere for good is damage.
                if content == self._content(key):
                    check(key, found="", wanted=_digest(content))
        raise NoSuchObject(f"nothing lies under {key}")

    def _get_range(self, key: str, start: int, num_bytes: int) -> bytes:
        file, _ = self._open(key)
        with file:
            file.seek(start)
            return file.read(num_bytes)

    def _get_file(self, key: str, path: Path) -> Stat:
        with whole_file(path) as part:
            for chunk in self._read(key):
                part.write(chunk)
        return Stat(key, part.num_bytes, part.digest)

    def _stat(self, key: str) -> Stat | None:
        try:
            file, digest = self._open(key)
        except NoSuchObject:
            return None
        with file:
            return Stat(key, os.fstat(file.fileno()).st_size, digest)

    def _found(self, prefix: str) -> Sequence[Stat]:
        keys = (
            (Path(folder) / name).relative_to(self._objects).as_posix()
            for folder, _, names in os.walk((self._objects / prefix).parent if prefix else self._objects)
            for name in names
        )
        stats = (self._stat(key) for key in sorted(keys) if key.startswith(prefix))
        return [stat for stat in stats if stat]

    def _content(self, key: str) -> Path | None:
        """Where the object's link leads."""
        link = self._objects / key
        try:
            return Path(os.path.normpath(link.parent / link.readlink()))
        except OSError:  # no such name, or a folder of other keys
            return None

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Nobody else changes a link meanwhile, so that what an overwritten object held can be let go."""
        self._root.mkdir(parents=True, exist_ok=True)
        with (self._root / "lock").open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _digest(content: Path) -> str:
    return content.name.partition(".")[0]


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk
