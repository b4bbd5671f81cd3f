"""A cgroup for a host, where this process may make one: v2 in a delegated subtree, else v1's memory and pids.

A host is moved in before it forks. Without a cgroup its memory is looked at now and then.
"""

import contextlib
import functools
import os
import re
import secrets
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")
_OURS = Path("/proc/self/cgroup")
_CONTROLLERS = ("memory", "pids")
_GONE_WITHIN_S = 2.0
_NAME = re.compile(r"flash-(\d+)-[0-9a-f]+")


class Cgroup:
    """One group, in each hierarchy that it takes."""

    def __init__(self, places: list[Path]) -> None:
        self._places = places

    @classmethod
    def make(cls, *, memory_bytes: int, processes: int) -> "Cgroup | None":
        """None where this machine lets us make none."""
        bases = _bases()
        return cls._in(bases, memory_bytes, processes) if bases else None

    @classmethod
    def _in(cls, bases: tuple[Path, ...], memory_bytes: int, processes: int) -> "Cgroup":
        """Raises OSError."""
        made = cls([base / f"flash-{os.getpid()}-{secrets.token_hex(6)}" for base in bases])
        settings = {
            "memory.max": memory_bytes, "memory.swap.max": 0, "memory.oom.group": 0,
            "memory.limit_in_bytes": memory_bytes, "memory.memsw.limit_in_bytes": memory_bytes, "pids.max": processes,
        }  # fmt: skip
        try:
            for place in made._places:
                place.mkdir()
                for name, value in settings.items():
                    if (place / name).exists():
                        (place / name).write_text(str(value))
        except OSError:
            made.remove()
            raise
        return made

    def add(self, pid: int) -> None:
        for place in self._places:
            (place / "cgroup.procs").write_text(str(pid))

    def kill(self) -> None:
        """Everything in it: at once where the kernel can do that, else one by one for as long as there is somebody."""
        give_up = time.monotonic() + _GONE_WITHIN_S
        for place in self._places:
            with contextlib.suppress(OSError):
                (place / "cgroup.kill").write_text("1")
                continue
            while (pids := self._pids(place)) and time.monotonic() < give_up:
                for pid in pids:
                    with contextlib.suppress(ProcessLookupError, PermissionError):
                        os.kill(pid, signal.SIGKILL)
                time.sleep(0.001)

    def remove(self) -> None:
        """Waits a little for the dead to be buried."""
        give_up = time.monotonic() + _GONE_WITHIN_S
        for place in self._places:
            while place.exists() and time.monotonic() < give_up:
                try:
                    place.rmdir()
                except OSError:
                    time.sleep(0.01)

    @staticmethod
    def _pids(place: Path) -> list[int]:
        try:
            return [int(pid) for pid in (place / "cgroup.procs").read_text().split()]
        except OSError:
            return []

    def killed_for_memory(self) -> int:
        """How many processes of the group the kernel has killed for its memory."""
        for place in self._places:
            for name in ("memory.events", "memory.oom_control"):
                with contextlib.suppress(OSError):
                    counts = dict(line.split() for line in (place / name).read_text().splitlines())
                    return int(counts.get("oom_kill", 0))
        return 0


@functools.cache
def _bases() -> tuple[Path, ...]:
    """Where groups can be made, found by making one and moving a process there; empty: nowhere."""
    for bases in _candidates():
        if all(os.access(base, os.W_OK) for base in bases) and _works(bases):
            for base in bases:
                _tidy(base)
            return bases
    return ()


def _candidates() -> Iterator[tuple[Path, ...]]:
    ours = dict(_memberships())
    if "" in ours:
        own = _ROOT / ours[""].lstrip("/")
        for base in (own, own.parent):
            with contextlib.suppress(OSError):
                if set(_CONTROLLERS) <= set((base / "cgroup.subtree_control").read_text().split()):
                    yield (base,)
    if all(name in ours for name in _CONTROLLERS):
        yield tuple(_ROOT / name / ours[name].lstrip("/") for name in _CONTROLLERS)


def _memberships() -> Iterator[tuple[str, str]]:
    """Controller (empty: version 2) and path."""
    with contextlib.suppress(OSError):
        for line in _OURS.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            yield from ((controller, path) for controller in controllers.split(","))


def _works(bases: tuple[Path, ...]) -> bool:
    try:
        tried = Cgroup._in(bases, 64 << 20, 16)
    except OSError:
        return False
    try:
        with subprocess.Popen(["/bin/sh", "-c", "read _"], stdin=subprocess.PIPE) as waiting:
            tried.add(waiting.pid)
            assert waiting.stdin is not None
            waiting.stdin.close()
    except OSError:
        return False
    finally:
        tried.remove()
    return True


def _tidy(base: Path) -> None:
    """Remove what processes that were killed have left: empty groups whose maker is dead."""
    for place in base.glob("flash-*"):
        if (name := _NAME.fullmatch(place.name)) and not Path(f"/proc/{name[1]}").exists():
            with contextlib.suppress(OSError):
                place.rmdir()


def works() -> bool:
    """This process can make groups."""
    return bool(_bases())
