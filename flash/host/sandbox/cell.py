"""The walls around one host: what it is started with, and the certainty that nothing of it is left."""

import atexit
import contextlib
import functools
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from flash.errors import ConfigError
from flash.host.child import landlock
from flash.host.child.confinement import Confinement
from flash.host.child.seccomp import Sockets
from flash.host.child.slot import empty
from flash.host.sandbox import bubblewrap, others, processes
from flash.host.sandbox.cgroup import Cgroup
from flash.host.sandbox.layers import Layers

_RESOLVING = (
    "/etc/resolv.conf", "/etc/hosts", "/etc/host.conf", "/etc/gai.conf", "/etc/services", "/run/systemd/resolve",
)  # fmt: skip
"""What finding addresses reads, where there is no proxy to do it."""
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

    def __init__(
        self,
        layers: Layers,
        bounds: Bounds,
        scratch: Path,
        readable: Sequence[str],
        folder: Path,
        *,
        writable: Sequence[str] = (),
        ports: Sequence[int] | None = None,
        own_uid: bool = True,
    ) -> None:
        self.layers, self.bounds = layers, bounds
        self.outside = scratch
        """A folder of ours for this host; what it writes itself lies there only without namespaces."""
        self.folder = folder
        """The environment's files, as the host finds them."""
        self.uid = others.free_uid() if layers.second_uid and own_uid else None
        self.cgroup = (
            Cgroup.make(memory_bytes=bounds.memory_bytes, processes=bounds.most_processes + 8)
            if layers.cgroup
            else None
        )
        self._readable, self._writable, self._ports = [*readable], [*writable], ports
        self._process: subprocess.Popen[bytes] | None = None
        self._inside: int | None = None
        """A descriptor for the first process within, once that is known."""
        self._noted: set[int] = set()

    @classmethod
    def make(cls, layers: Layers, bounds: Bounds, *, folder: Path, readable: Iterable[str]) -> Self:
        """Raises ConfigError where the interpreter lies where nobody else may look, and the layers need that."""
        scratch = _scratch()
        paths = [*dict.fromkeys((*_interpreter(), *readable))]
        folder = folder.resolve()
        layers = _without_second_uid_where_needed(layers, (*paths, str(scratch.parent)))
        if layers.second_uid and not (
            others.all_open_once_there(folder) and (layers.walls == "bwrap" or others.open_to_others(str(folder)))
        ):
            folder = others.opened_copy(folder, scratch / "environment")
        return cls(layers, bounds, scratch, [*paths, str(folder)], folder)._laid_out()

    @classmethod
    def for_installing(
        cls,
        layers: Layers,
        bounds: Bounds,
        *,
        readable: Sequence[str],
        writable: Sequence[Path],
        ports: Sequence[int],
        builds: bool,
    ) -> Self:
        """Of an installer, which reads what is named, and writes to the `writable` folders: those are its own for as
        long as it works. `ports` are those that it may connect to where only Landlock stands before the network.
        Where it builds, and so runs the code of packages, it gets a uid of its own as a host does.

        Raises ConfigError as `make` does.
        """
        scratch = _scratch()
        paths = [*dict.fromkeys((*_interpreter(), *(os.path.abspath(path) for path in readable)))]
        if builds:
            layers = _without_second_uid_where_needed(layers, (*paths, str(scratch.parent), *map(str, writable)))
        own_uid = builds and all(map(others.open_once_there, readable))
        folders = [str(folder) for folder in writable]
        cell = cls(
            layers, bounds, scratch, paths, scratch, writable=folders,
            ports=ports if layers.walls == "landlock" else None, own_uid=own_uid,
        )  # fmt: skip
        if cell.uid is not None:
            for folder in folders:
                os.chown(folder, cell.uid, cell.uid)
        return cell._laid_out()

    def _laid_out(self) -> Self:
        (self.outside / "own").mkdir(mode=0o700)
        (self.outside / "hosts").write_text("127.0.0.1 localhost\n")
        if self.uid is not None:
            os.chmod(self.outside, 0o755)
            os.chown(self.outside / "own", self.uid, self.uid)
        return self

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
        sockets: Sockets = "isolated" if alone else "none" if self._ports is None else "internet"
        return Confinement(
            uid=self.uid,
            landlock=("forks" if alone else "all") if self.layers.landlock else "off",
            seccomp=True,
            sockets=sockets,
            shared_memory=alone and self.cgroup is not None,  # else a segment stays on the machine
            readable=[*system, *(() if self._ports is None else _RESOLVING), *self._readable],
            writable=self._writable,
            ports=None if self._ports is None else [*self._ports],
            shm=alone,
            processes=self.bounds.processes + elsewhere,
            most_processes=self.bounds.most_processes + elsewhere,
            open_files=self.bounds.open_files,
            file_bytes=self.bounds.file_bytes,
        )

    def spawn(
        self,
        arguments: Iterable[str],
        channel: int,
        variables: Mapping[str, str],
        egress_socket: str = "",
        *,
        output: int = subprocess.DEVNULL,
    ) -> subprocess.Popen[bytes]:
        """Start the interpreter within the walls. Not in a thread: it dies with the thread that started it.

        `output` is a descriptor for what it prints."""
        variables = {"HOME": self.scratch, "TMPDIR": self.scratch, "USER": "flash", **variables}
        command = [os.path.realpath(sys.executable), *arguments]
        if self.layers.walls == "bwrap":
            box = bubblewrap.Box(
                readable=self._readable,
                writable=self._writable,
                becomes_uid=self.layers.second_uid,
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
            stdout=output, stderr=output,
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

    def wait(self) -> None:
        """Until what was started is gone."""
        if self._process is not None:
            self._process.wait()

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
    empty(str(folder))
    with contextlib.suppress(OSError):
        folder.rmdir()


@functools.cache
def _tidy() -> None:
    """Once in a process: remove the folders of those that were killed."""
    for folder in Path(tempfile.gettempdir()).glob("flash-host-*-*"):
        maker = folder.name.split("-")[2]
        if maker.isdigit() and not processes.is_alive(int(maker)) and folder.stat().st_uid == os.getuid():
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


def _scratch() -> Path:
    _tidy()
    return Path(tempfile.mkdtemp(prefix=f"flash-host-{os.getpid()}-"))


def _without_second_uid_where_needed(layers: Layers, paths: Iterable[str]) -> Layers:
    """Without namespaces, one can only become somebody else where that one can get to all of it."""
    if not layers.second_uid or layers.walls != "landlock" or all(map(others.open_to_others, paths)):
        return layers
    if landlock.abi() < landlock.SCOPED_SINCE:
        raise ConfigError(
            f"the interpreter {sys.executable} lies where only root may look, and this kernel's Landlock cannot keep "
            "author code from signalling whoever has its uid: install bubblewrap, or Python where all may read it"
        )
    return replace(layers, second_uid=False)
