"""An installer at work within walls of its own: what it may read, write, reach and take; and nothing of it is left.

    the system, Python, what the operator's settings name     read only
    the folders it is given                                   its own for as long as it works
    the network                                               by a proxy of ours: package indexes, and the public web

Without namespaces the network is Landlock's to bound, by TCP port; without any walls nothing is promised but limits.
"""

import asyncio
import contextlib
import os
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec

from flash.host.child.frames import LENGTH, VERSION, Install, encode, framed
from flash.host.indexes import Indexes
from flash.host.launching import launched, library
from flash.host.link import printable
from flash.host.sandbox import EGRESS_SOCKET, Bounds, Cell, Decision, Egress, Layers, private_bytes
from flash.host.sandbox.destinations import WEB, for_installing

_OUTPUT_BYTES = 64 << 10
_CONNECTIONS = 256
_DNS = 53
_WATCHED_S = 0.25
_ENTRY_BYTES = 16 << 10
"""What a file or folder counts for at least: there is no end to empty ones."""
_LEFT_BYTES = 1 << 30
"""Of a disk: an install that goes on below it is stopped."""


@dataclass(frozen=True)
class Allowance:
    """What one install may take."""

    memory_bytes: int = 4 << 30
    disk_bytes: int = 16 << 30
    """Of all it writes; also what goes through the network."""
    processes: int = 512


@dataclass(frozen=True)
class Ended:
    """What came of it."""

    status: int
    output: str
    """What was said last."""


USUAL = Allowance()


class Exceeded(Exception):
    """More was taken than is allowed; the text says of what."""


@dataclass(frozen=True)
class Workplace:
    """Where it works, and what is its own there."""

    folder: Path
    writable: Sequence[Path]
    shared: Sequence[Path] = ()
    """Its own as well, and that of others."""

    @property
    def folders(self) -> list[Path]:
        return [self.folder, *self.writable, *self.shared]


async def installed(
    command: Sequence[str],
    variables: Mapping[str, str],
    *,
    at: Workplace,
    readable: Sequence[str],
    indexes: Indexes,
    allowance: Allowance,
    layers: Layers,
    builds: bool,
    alone: bool = False,
) -> Ended:
    """Run an installer; returns when nothing of it is left. Cancelled, it is killed with all it has started.

    `builds`: it runs the code of packages. `alone`: of its processes only the first goes into the network; so it is
    where there are namespaces and `/proc`. Raises Exceeded, and ConfigError where the walls cannot be had.
    """
    refused: list[str] = []
    async with AsyncExitStack() as stack:
        cell = _cell(layers, allowance, at, readable, indexes, builds=builds)
        stack.push_async_callback(_buried, cell)
        egress = await stack.enter_async_context(_way_out(cell, indexes, allowance, refused))
        ours, theirs = socket.socketpair()
        reading, writing = os.pipe()
        process = cell.spawn(
            launched("installing", theirs.fileno()), theirs.fileno(), {}, cell.egress_path if egress else "",
            output=writing,
        )  # fmt: skip
        theirs.close()
        os.close(writing)
        told, teller = await asyncio.open_connection(sock=ours)
        stack.callback(teller.close)
        output = await stack.enter_async_context(_last_of(reading))
        teller.write(framed(encode(_install(command, variables, at, cell, has_egress=egress is not None, alone=alone))))
        status = await _watched(_status(told, cell), cell, process, at, allowance)
        await asyncio.to_thread(process.wait)
        text = printable(await output)
        if cell.killed_for_memory():
            text += f"\nits processes took more than {allowance.memory_bytes >> 20} MiB of memory together"
        return Ended(status, "\n".join([text, *dict.fromkeys(refused)]))


def _cell(
    layers: Layers, allowance: Allowance, at: Workplace, readable: Sequence[str], indexes: Indexes, *, builds: bool
) -> Cell:
    bounds = Bounds(
        memory_bytes=allowance.memory_bytes,
        scratch_bytes=256 << 20,
        slots=0,
        processes=allowance.processes,
        most_processes=allowance.processes,
        open_files=4_096,
        file_bytes=allowance.disk_bytes,
    )
    return Cell.for_installing(
        layers,
        bounds,
        readable=[*library(), *readable, *indexes.readable],
        writable=at.folders,
        ports=[_DNS, *WEB, *(port for _, port in indexes.named)],
        builds=builds,
    )


@asynccontextmanager
async def _way_out(
    cell: Cell, indexes: Indexes, allowance: Allowance, refused: list[str]
) -> AsyncIterator[Egress | None]:
    """None: there is no namespace to go out of."""
    if cell.layers.walls != "bwrap":
        yield None
        return

    def tell(decision: Decision) -> None:
        if decision.refused:
            refused.append(f"{decision.destination} was not reached: {decision.refused}")

    egress = await Egress.open(
        Path(cell.egress_path), partial(for_installing, indexes.named), uid=cell.uid, tell=tell,
        most_bytes=allowance.disk_bytes, most_connections=_CONNECTIONS, upstream=indexes.upstream,
    )  # fmt: skip
    try:
        yield egress
    finally:
        await egress.close()


def _install(
    command: Sequence[str], variables: Mapping[str, str], at: Workplace, cell: Cell, *, has_egress: bool, alone: bool
) -> Install:
    return Install(
        version=VERSION,
        command=[*command],
        variables={**variables},
        folder=str(at.folder),
        parent=cell.parent,
        confinement=cell.confinement(),
        egress_socket=EGRESS_SOCKET if has_egress else "",
        alone=alone and has_egress and cell.layers.proc,
    )


async def _status(told: asyncio.StreamReader, cell: Cell) -> int:
    """-1: whoever was to tell is gone."""
    try:
        await _frame(told)
        cell.settled()
        return await _frame(told) or 0
    except (asyncio.IncompleteReadError, ConnectionError):
        return -1


async def _frame(told: asyncio.StreamReader) -> int | None:
    (length,) = LENGTH.unpack(await told.readexactly(LENGTH.size))
    return msgspec.msgpack.decode(await told.readexactly(length), type=int | None)


@asynccontextmanager
async def _last_of(reading: int) -> AsyncIterator[asyncio.Task[bytes]]:
    """What comes out of a pipe until nobody holds its other end; the beginning is forgotten."""

    async def read() -> bytes:
        kept = bytearray()
        while data := await reader.read(_OUTPUT_BYTES):
            kept += data
            del kept[:-_OUTPUT_BYTES]
        return bytes(kept)

    reader = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(reading, "rb", buffering=0)
    )
    task = asyncio.create_task(read())
    try:
        yield task
    finally:
        task.cancel()
        transport.close()


async def _watched(
    status: Coroutine[None, None, int],
    cell: Cell,
    process: subprocess.Popen[bytes],
    at: Workplace,
    allowance: Allowance,
) -> int:
    """The status, unless more is taken than is allowed. Raises Exceeded."""
    ended = asyncio.ensure_future(status)
    watching = [asyncio.create_task(_watch_disk(at, allowance.disk_bytes))]
    if cell.is_watched:
        watching.append(asyncio.create_task(_watch_memory(process.pid, allowance.memory_bytes)))
    try:
        await asyncio.wait([ended, *watching], return_when=asyncio.FIRST_COMPLETED)
        for watch in watching:
            if watch.done():
                watch.result()
        return await ended
    finally:
        for task in (ended, *watching):
            task.cancel()


async def _watch_memory(pid: int, most: int) -> None:
    while True:
        await asyncio.sleep(_WATCHED_S)
        if private_bytes(pid) > most:
            raise Exceeded(f"its processes took more than {most >> 20} MiB of memory together")


async def _watch_disk(at: Workplace, most: int) -> None:
    """As often as it is quick to look. What it has deleted and holds open, and the shared cache, is seen by what is
    left of the disk, to which others write as well: that counts when it is nearly nothing."""
    free_before = _free_bytes(at.folder)
    took_s = 0.0
    while True:
        await asyncio.sleep(max(2 * _WATCHED_S, 10 * took_s))
        began = time.monotonic()
        try:
            written = await asyncio.to_thread(_written_bytes, [at.folder, *at.writable], most)
        except OSError as error:  # a closed folder, or one that is nested too deep to be named
            raise Exceeded(f"what it wrote cannot be counted: {error.strerror}") from None
        if written > most:
            raise Exceeded(f"more than {most >> 20} MiB were written")
        if (free := _free_bytes(at.folder)) < _LEFT_BYTES and free_before - free > min(most, _LEFT_BYTES):
            raise Exceeded(f"the disk has {free >> 20} MiB left")
        took_s = time.monotonic() - began


def _free_bytes(folder: Path) -> int:
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


def _written_bytes(folders: Sequence[Path], most: int) -> int:
    """On disk; stops counting at `most`."""
    found, waiting = 0, [*map(str, folders)]
    while waiting and found <= most:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(waiting.pop()) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):
                    found += max(_ENTRY_BYTES, entry.stat(follow_symlinks=False).st_blocks * 512)
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
    return found


async def _buried(cell: Cell) -> None:
    def bury() -> None:
        cell.kill()
        cell.wait()
        cell.close()

    await asyncio.shield(asyncio.to_thread(bury))
