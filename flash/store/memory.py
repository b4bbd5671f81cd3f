"""A store that lives as long as its process."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

from flash.store import AlreadyThere, NoSuchObject, Stat
from flash.store.whole import check, checked_key, digest_of, whole_file


class MemoryStore:
    """Objects in a dictionary."""

    def __init__(self) -> None:
        self._objects: dict[str, tuple[bytes, Stat]] = {}

    async def put(self, key: str, data: bytes, *, if_absent: bool = False) -> Stat:
        stat = Stat(checked_key(key), len(data), await asyncio.to_thread(digest_of, data))
        if if_absent and key in self._objects:
            raise AlreadyThere(f"{key} is there already")
        self._objects[key] = (bytes(data), stat)
        return stat

    async def put_file(self, key: str, path: Path) -> Stat:
        return await self.put(key, await asyncio.to_thread(path.read_bytes))

    async def get(self, key: str) -> bytes:
        if key not in self._objects:
            raise NoSuchObject(f"nothing lies under {key}")
        data, stat = self._objects[key]
        check(key, found=await asyncio.to_thread(digest_of, data), wanted=stat.digest)
        return data

    async def get_range(self, key: str, start: int, num_bytes: int) -> bytes:
        return (await self.get(key))[start : start + num_bytes]

    async def get_file(self, key: str, path: Path) -> Stat:
        data = await self.get(key)
        return await asyncio.to_thread(_write, key, data, path)

    async def stat(self, key: str) -> Stat | None:
        return self._objects[key][1] if key in self._objects else None

    async def list(self, prefix: str) -> AsyncIterator[Stat]:
        for key in sorted(self._objects):
            if key.startswith(prefix) and (stat := await self.stat(key)):
                yield stat

    async def delete(self, key: str) -> None:
        self._objects.pop(key, None)


def _write(key: str, data: bytes, path: Path) -> Stat:
    with whole_file(path) as part:
        part.write(data)
    return Stat(key, part.num_bytes, part.digest)
