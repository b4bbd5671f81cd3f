"""The walls around one host: what it is started with, and the certainty that nothing of it is left."""

import atexit
import contextlib
import functools
import os
import pwd
import random
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from flash.errors import ConfigError
from flash.host.child import landlock
from flash.host.child.confinement import Confinement
from flash.host.sandbox import bubblewrap, processes
from flash.host.sandbox.cgroup import Cgroup
from flash.host.sandbox.layers import Layers

UIDS = range(61_000, 65_000)
"""Of which each host that root starts gets one, and nobody else has any."""

_WAITS = ["/bin/sh", "-c", 'read _; exec "$@" </dev/null', "sh"]
"""A shell that waits until it is in its cgroup: what it becomes can then fork into no other."""


@dataclass(frozen=True)
class Bounds:
    """What a host may take, all its processes together."""

    memory_bytes: int
    scratch_bytes: int
    slots: int
    """Each with as much scratch again, of its own."""
    processes: int
    """Beside those that the environment is known to want once it is loaded."""
    most_processes: int
    """Until then."""
    open_files: int
    file_bytes: int


class Cell:
    """Made for one host, and closed when that is gone."""

    def __init__(self, layers: Layers, bounds: Bounds, scratch: Path, readable: list[str], folder: Path) -> None:
        self.layers, self.bounds = layers, bounds
        self.outside = scratch
        """A folder of ours for this host; what it writes itself lies there only without namespaces."""
        self.folder = folder
        """The environment's files, as the host finds them."""
        self.uid = _free_uid() if layers.second_uid else None
        self.cgroup = (
            Cgroup.make(memory_bytes=bounds.memory_bytes, processes=bounds.most_processes + 8)
            if layers.cgroup
            else None
        )
        self._readable = readable
        self._process: subprocess.Popen[bytes] | None = None
        self._inside: int | None = None
        """A descriptor for the first process within, once that is known."""
        self._noted: set[int] = set()

    @classmethod
    def make(cls, layers: Layers, bounds: Bounds, *, folder: Path, readable: Iterable[str]) -> Self:
        """Raises ConfigError where the interpreter lies where nobody else may look, and the layers need that."""
        _tidy()
        scratch = Path(tempfile.mkdtemp(prefix=f"flash-host-{os.getpid()}-"))
        paths = [*dict.fromkeys((*_interpreter(), *readable))]
        folder = folder.resolve()
        if (
            layers.second_uid
            and layers.walls == "landlock"
            and not all(map(_open_to_others, (*paths, str(scratch.parent))))
        ):
            layers = _without_second_uid(layers)
        if layers.second_uid and not (
            _readable_by_others(folder) and (layers.walls == "bwrap" or _open_to_others(str(folder)))
        ):
            folder = _staged(folder, scratch / "environment")
        cell = cls(layers, bounds, scratch, [*paths, str(folder)], folder)
        (scratch / "own").mkdir(mode=0o700)
        (scratch / "hosts").write_text("127.0.0.1 localhost\n")
        if cell.uid is not None:
            os.chmod(scratch, 0o755)
            os.chown(scratch / "own", cell.uid, cell.uid)
        return cell

    @property
    def scratch(self) -> str:
        """Where the host writes, as it finds it."""
        return "/tmp" if self.layers.walls == "bwrap" else str(self.outside / "own")

    @property
    def egress_path(self) -> str:
        """Where its proxy is to listen."""
        return str(self.outside / "egress.sock")

    @property
    def is_watched(self) -> bool:
        """Nothing but a look now and then limits the memory of all its processes together."""
        return self.cgroup is None and sys.platform == "linux"

    @property
    def parent(self) -> int:
        """The process id of its parent, as the host sees it: none beyond its namespace."""
        return 0 if self.layers.walls == "bwrap" else os.getpid()

    def confinement(self) -> Confinement:
        """What the host is to do itself, before it loads anything."""
        walls = self.layers.walls
        if walls == "none":
            return Confinement(open_files=self.bounds.open_files, file_bytes=self.bounds.file_bytes)
        alone = walls == "bwrap"
        elsewhere = 0 if alone or self.uid is not None else processes.threads_of(os.getuid())
        system = (*bubblewrap.READABLE, "/etc/hosts", "/proc", "/run") if alone else bubblewrap.READABLE
        return Confinement(
            uid=self.uid,
            landlock=("forks" if alone else "all") if self.layers.landlock else "off",
            seccomp=True,
            sockets="isolated" if alone else "none",
            shared_memory=alone and self.cgroup is not None,  # else a segment stays on the machine
            readable=[*system, *self._readable],
            shm=alone,
            processes=self.bounds.processes + elsewhere,
            most_processes=self.bounds.most_processes + elsewhere,
            open_files=self.bounds.open_files,
            file_bytes=self.bounds.file_bytes,
        )

    def spawn(
        self, arguments: Iterable[str], channel: int, variables: Mapping[str, str], egress_socket: str = ""
    ) -> subprocess.Popen[bytes]:
        """Start the interpreter within the walls. Not in a thread: it dies with the thread that started it."""
        variables = {"HOME": self.scratch, "TMPDIR": self.scratch, "USER": "flash", **variables}
        command = [os.path.realpath(sys.executable), *arguments]
        if self.layers.walls == "bwrap":
            box = bubblewrap.Box(
                readable=self._readable,
                becomes_uid=self.uid is not None,
                proc=self.layers.proc,
                scratch_bytes=self.bounds.scratch_bytes,
                slots=self.bounds.slots,
                variables=variables,
                hosts=str(self.outside / "hosts"),
                egress_socket=egress_socket,
                dies_with_us=self.uid is None,
            )
            command, variables = bubblewrap.arguments(self.layers.bwrap, box, command), {}
        process = subprocess.Popen(
            [*_WAITS, *command] if self.cgroup else command,
            stdin=subprocess.PIPE if self.cgroup else subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            pass_fds=(channel,), env=variables, cwd="/", start_new_session=True,
        )  # fmt: skip
        self._process = process
        self._note("+", process.pid)
        if self.cgroup:
            self.cgroup.add(process.pid)
            assert process.stdin is not None
            process.stdin.write(b"\n")
            process.stdin.close()
        return process

    def settled(self) -> None:
        """The host is ready: it has a first process within."""
        assert self._process is not None
        if self.layers.walls == "bwrap" and (below := processes.descendants(self._process.pid)):
            self._inside = os.pidfd_open(below[-1])
            self._note("+", below[-1])

    def kill(self) -> None:
        """Everything within, now."""
        if self._process is not None and self._process.returncode is None:
            processes.kill_tree(self._process.pid)
        if self._inside is not None:  # bubblewrap may have been killed, and not this
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._inside, signal.SIGKILL)
        if self.cgroup:
            self.cgroup.kill()

    def killed_for_memory(self) -> int:
        return self.cgroup.killed_for_memory() if self.cgroup else 0

    def close(self) -> None:
        """The host is gone: what was made for it goes as well."""
        if self._inside is not None:
            os.close(self._inside)
            self._inside = None
        for pid in self._noted.copy():
            self._note("-", pid)
        if self.cgroup:
            self.cgroup.remove()
        remove_tree(self.outside)

    def _note(self, sign: str, pid: int) -> None:
        """For the guard: the kernel refuses bubblewrap's own signal of death once the inside has another uid."""
        if self.uid is not None and self.layers.walls == "bwrap":
            _guard().note(f"{sign}{pid}")
            (self._noted.add if sign == "+" else self._noted.discard)(pid)


def remove_tree(folder: Path) -> None:
    """Also where somebody has closed folders in it to their owner. Nothing outside of it is touched."""
    if not folder.is_dir() or folder.is_symlink():
        return
    for root, folders, _ in os.walk(folder):
        for name in folders:
            with contextlib.suppress(OSError):
                if not os.path.islink(place := os.path.join(root, name)):
                    os.chmod(place, 0o700)
    shutil.rmtree(folder, ignore_errors=True)


@functools.cache
def _tidy() -> None:
    """Once in a process: remove the folders of those that were killed."""
    for folder in Path(tempfile.gettempdir()).glob("flash-host-*-*"):
        maker = folder.name.split("-")[2]
        if maker.isdigit() and not os.path.exists(f"/proc/{maker}") and folder.stat().st_uid == os.getuid():
            remove_tree(folder)


class _Guard:
    """A process that outlives us for a moment, and takes with it the hosts that would otherwise stay."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-B", processes.__file__],
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            cwd="/", start_new_session=True,
        )  # fmt: skip
        atexit.register(self.close)

    def note(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n".encode())
        self._process.stdin.flush()

    def close(self) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        self._process.wait()


@functools.cache
def _guard() -> _Guard:
    return _Guard()


def _interpreter() -> list[str]:
    """What the interpreter itself reads, beside the system's folders."""
    program = Path(sys.executable).resolve()
    homes = {Path(sys.base_prefix).resolve(), Path(sys.base_exec_prefix).resolve()}
    if not any(program.is_relative_to(home) for home in homes):
        homes.add(program)
    return sorted(str(home) for home in homes)


def _free_uid() -> int:
    taken = processes.uids()
    while True:
        uid = random.choice(UIDS)
        if uid not in taken and not _is_somebody(uid):
            return uid


def _is_somebody(uid: int) -> bool:
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return False
    return True


def _without_second_uid(layers: Layers) -> Layers:
    if landlock.abi() < landlock.SCOPED_SINCE:
        raise ConfigError(
            f"the interpreter {sys.executable} lies where only root may look, and this kernel's Landlock cannot keep "
            "author code from signalling whoever has its uid: install bubblewrap, or Python where all may read it"
        )
    return replace(layers, second_uid=False)


def _open_to_others(path: str) -> bool:
    """Anybody may get there and read it."""
    place = Path(path)
    if not place.exists():
        return True
    wanted = stat.S_IROTH | (stat.S_IXOTH if place.is_dir() else 0)
    return place.stat().st_mode & wanted == wanted and all(
        parent.stat().st_mode & stat.S_IXOTH for parent in place.parents
    )


def _readable_by_others(folder: Path) -> bool:
    wanted = stat.S_IROTH | stat.S_IXOTH
    if folder.stat().st_mode & wanted != wanted:
        return False
    for root, folders, files in os.walk(folder):
        if any(os.stat(os.path.join(root, name)).st_mode & wanted != wanted for name in folders):
            return False
        if any(not os.stat(os.path.join(root, name)).st_mode & stat.S_IROTH for name in files):
            return False
    return True


def _staged(folder: Path, copy: Path) -> Path:
    """A copy that anybody may read."""
    shutil.copytree(folder, copy)
    for path in (copy, *copy.rglob("*")):
        path.chmod(path.stat().st_mode | stat.S_IROTH | (stat.S_IXOTH if path.is_dir() else 0))
    return copy
