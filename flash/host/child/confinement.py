"""How the zygote shuts itself in before it imports a line of the author's: for ever, or nothing is loaded."""

import _thread
import contextlib
import ctypes
import os
import resource
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import msgspec

from . import landlock
from .seccomp import Sockets, install, program

_NICENESS = 5
_LOCKED_BYTES = 64 << 10
_CAPABILITY_VERSION_3 = 0x20080522
_DEATH_SIGNAL, _DUMPABLE, _SUBREAPER, _NO_NEW_PRIVS = 1, 4, 36, 38
_libc = ctypes.CDLL(None, use_errno=True)
_prctl = getattr(_libc, "prctl", None)
"""None: this is not Linux, and nobody asks for more than limits."""
_PARENT_LOOKED_S = 0.5


class Confinement(msgspec.Struct):
    """What is asked of the layers within. Each that is asked for holds, or nothing is loaded."""

    uid: int | None = None
    """Whom to become; None: who we are."""
    landlock: Literal["off", "forks", "all"] = "off"
    """`forks`: each has its own place and what is readable; `all`: the zygote too has no more than that."""
    seccomp: bool = False
    sockets: Sockets = "isolated"
    shared_memory: bool = False
    """There may be memory without a process: a cgroup counts it."""
    readable: list[str] = []
    writable: list[str] = []
    """Beside a place of one's own."""
    ports: list[int] | None = None
    """Which TCP may connect to; None: there is a network namespace, or no socket."""
    shm: bool = False
    """`/dev/shm` is ours alone, and small."""
    processes: int = 0
    """How many processes and threads our user may have, elsewhere included, beside those that the environment is known
    to want once it is loaded; 0: no limit of ours."""
    most_processes: int = 0
    """How many until then."""
    open_files: int = 256
    file_bytes: int = 64 << 20


@dataclass(frozen=True)
class Views:
    """Descriptors into `/proc`, opened while it could still be reached; None where there is none."""

    children: int | None
    statm: int | None

    def descriptors(self) -> list[int]:
        return [view for view in (self.children, self.statm) if view is not None]


def lock_down(confinement: Confinement, *, keep: int, parent: int, scratch: str) -> Views:
    """Shut this process in. `keep` is the one descriptor beside 0 to 2 that stays; `parent` our parent's process id.

    Raises OSError when a layer that was asked for cannot be had.
    """
    os.umask(0o077)
    os.closerange(3, keep)
    os.closerange(keep + 1, _most_open())
    if confinement.uid is not None:
        os.setgroups([])
        os.setresgid(confinement.uid, confinement.uid, confinement.uid)
        os.setresuid(confinement.uid, confinement.uid, confinement.uid)
    elif os.geteuid() == 0 and confinement.seccomp:
        _drop_capabilities()
    views = Views(children=_opened(f"/proc/self/task/{os.getpid()}/children"), statm=_opened("/proc/self/statm"))
    set_flag(_NO_NEW_PRIVS, 1)
    set_flag(_SUBREAPER, 1)
    if confinement.seccomp:
        set_flag(_DUMPABLE, 0)
    die_with(parent)
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, _NICENESS)
    _limit_all(confinement)
    if confinement.landlock == "all":
        landlock.restrict(landlock.ruleset(confinement.readable, _writable(confinement, scratch), confinement.ports))
    if confinement.seccomp:
        install(program(sockets=confinement.sockets, shared_memory=confinement.shared_memory))
    return views


class Fence:
    """What a fork may touch: everything readable, and a place of its own. Made ahead, since forks are to be quick."""

    def __init__(self, confinement: Confinement, loaded: str, place: str) -> None:
        """`loaded` is where the import could write, which forks may read."""
        self._confined = confinement.seccomp
        self._ruleset = -1
        if confinement.landlock != "off":
            readable, writable = [*confinement.readable, loaded], _writable(confinement, place)
            self._ruleset = landlock.ruleset(readable, writable, confinement.ports)

    def descriptors(self) -> list[int]:
        """What it holds open."""
        return [self._ruleset] if self._ruleset >= 0 else []

    def enter(self) -> None:
        """In the fork."""
        if self._confined:
            set_flag(_DUMPABLE, 1)  # else what is in /proc of itself would be closed to the author
            _die_first()
        if self._ruleset >= 0:
            landlock.restrict(self._ruleset)


def _die_first() -> None:
    """When memory runs out, a fork goes before the zygote."""
    with contextlib.suppress(OSError):
        scored = os.open("/proc/self/oom_score_adj", os.O_WRONLY | os.O_CLOEXEC)
        os.write(scored, b"500")
        os.close(scored)


def set_flag(flag: int, value: int) -> None:
    if _prctl is not None and _prctl(flag, value, 0, 0, 0):
        raise OSError(ctypes.get_errno(), f"prctl {flag}: {os.strerror(ctypes.get_errno())}")


def die_with(parent: int) -> None:
    """0: our parent is beyond our namespace."""
    set_flag(_DEATH_SIGNAL, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)


def outlive_nobody(parent: int) -> Callable[[], object]:
    """Where no signal tells of a parent's death, a thread looks whether it is there still. What is given stops it."""
    if _prctl is not None:
        return lambda: None
    stopped = _thread.allocate_lock()

    def look() -> None:
        while not stopped.acquire(True, _PARENT_LOOKED_S):
            if os.getppid() != parent:
                os.killpg(0, signal.SIGKILL)  # ours alone: hosts and forks begin one each

    stopped.acquire()
    _thread.start_new_thread(look, ())
    return stopped.release


def limit(which: int, soft: int, hard: int | None = None) -> None:
    """Never above what we were given. Address space is not limited on macOS, which refuses it."""
    most = resource.getrlimit(which)[1]
    bounded = [value if most == resource.RLIM_INFINITY else min(value, most) for value in (soft, hard or soft)]
    try:
        resource.setrlimit(which, (bounded[0], bounded[1]))
    except ValueError:
        if sys.platform == "linux" or which != resource.RLIMIT_AS:
            raise


def _limit_all(confinement: Confinement) -> None:
    limit(resource.RLIMIT_CORE, 0)
    limit(resource.RLIMIT_FSIZE, confinement.file_bytes)
    limit(resource.RLIMIT_NOFILE, confinement.open_files)
    if confinement.processes:
        limit(resource.RLIMIT_NPROC, confinement.most_processes)
    if confinement.seccomp:
        limit(resource.RLIMIT_MEMLOCK, _LOCKED_BYTES)
        limit(resource.RLIMIT_MSGQUEUE, 0)
        limit(resource.RLIMIT_RTPRIO, 0)
        limit(resource.RLIMIT_NICE, 0)


def _drop_capabilities() -> None:
    """Root that stays root keeps nothing of it but its files."""
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    if _libc.capset(header, (ctypes.c_uint32 * 6)()):
        raise OSError(ctypes.get_errno(), f"capset: {os.strerror(ctypes.get_errno())}")


def _writable(confinement: Confinement, place: str) -> list[str]:
    return [place, *confinement.writable, *(["/dev/shm"] if confinement.shm else [])]


def _most_open() -> int:
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return 1 << 20 if most == resource.RLIM_INFINITY else min(most, 1 << 20)


def _opened(path: str) -> int | None:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
