"""Processes that work at questions: each is asked one at a time, and one that fails or takes too long is replaced."""

import asyncio
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import msgspec
import structlog

from flash.errors import Refused
from services.recorder.query import Found, Query

PROCESSES = 2

log = structlog.get_logger()


class Askers:
    """Started when first needed, and kept."""

    def __init__(self, memory_mib: int) -> None:
        self._memory_mib = memory_mib
        self._free = asyncio.Semaphore(PROCESSES)
        self._idle: list[asyncio.subprocess.Process] = []

    async def ask(self, query: Query) -> Found:
        """Raises Refused, with one sentence, for what cannot be answered, or not with what a question may take."""
        async with self._free:
            process = await self._process()
            with _ended_unless_kept(process, self._idle):
                try:
                    async with asyncio.timeout(query.within_s):
                        found = await _answer(process, query)
                except TimeoutError:
                    raise Refused(
                        f"this takes longer than {query.within_s:g} s, which a question may: narrow it"
                    ) from None
                except (asyncio.IncompleteReadError, BrokenPipeError, ConnectionResetError):
                    log.warning("asker.died", code=await process.wait())
                    raise Refused("this takes more memory than a question may: narrow it") from None
        if found.refused:
            raise Refused(found.refused)
        return found

    async def close(self) -> None:
        for process in self._idle:
            process.kill()
            await process.wait()
        self._idle = []

    async def _process(self) -> asyncio.subprocess.Process:
        while self._idle:
            if (process := self._idle.pop()).returncode is None:
                return process
        # Nothing of ours is in its environment: a question needs no passwords.
        kept = {name: os.environ[name] for name in ("PATH", "LANG", "HOME", "TMPDIR") if name in os.environ}
        return await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-m", "services.recorder.duck", str(self._memory_mib),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, env=kept,
        )  # fmt: skip


@contextmanager
def _ended_unless_kept(process: asyncio.subprocess.Process, idle: list[asyncio.subprocess.Process]) -> Iterator[None]:
    try:
        yield
    except BaseException:
        with suppress(ProcessLookupError):
            process.kill()
        raise
    idle.append(process)


async def _answer(process: asyncio.subprocess.Process, query: Query) -> Found:
    assert process.stdin is not None
    assert process.stdout is not None
    body = msgspec.msgpack.encode(query)
    process.stdin.write(len(body).to_bytes(8, "little") + body)
    await process.stdin.drain()
    head = await process.stdout.readexactly(8)
    return msgspec.msgpack.decode(await process.stdout.readexactly(int.from_bytes(head, "little")), type=Found)
