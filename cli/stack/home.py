"""What a stack keeps under its home folder, and whether one runs there.

wiring.json   ports and passwords, kept from one `up` to the next; mode 0600
stack.json    the running stack: its urls, its processes and how they stand; mode 0600
lock          held by the supervisor for as long as it lives
logs/ nats/ s3/ models/
"""

import fcntl
import os
import secrets
import signal
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, TypeVar

import msgspec

from flash.errors import FlashError, NotFound, Refused

T = TypeVar("T")

Standing = Literal["waiting", "starting", "warming", "ready", "silent", "down", "stopped"]
"""waiting: its turn has not come; warming: alive, and not yet answering; silent: it answered, and no longer does."""

_LARGEST_LOG_BYTES = 10 << 20


class PartState(msgspec.Struct, frozen=True, kw_only=True):
    """How one part stands."""

    name: str
    standing: Standing = "waiting"
    pid: int | None = None
    started_at: float = 0.0
    """Seconds since the epoch; with the pid, it names one process for good."""
    restarts: int = 0
    deaths: int = 0
    """How often in a row it has died before it answered."""
    note: str = ""
    """Why it is down, and when it is started again."""


class Stack(msgspec.Struct, frozen=True, kw_only=True):
    """A stack as its supervisor writes it down."""

    pid: int
    """The supervisor's."""
    started_at: float
    nats_url: str
    store_url: str
    ready: bool = False
    """Runs are taken."""
    parts: tuple[PartState, ...] = ()


class Wiring(msgspec.Struct, frozen=True, kw_only=True):
    """What connects the parts."""

    ports: dict[str, int]
    nats_password: str
    s3_secret: str
    s3_keys: str


class Home:
    """The files of one home folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.expanduser().absolute()
        self.nats = self.folder / "nats"
        self.s3 = self.folder / "s3"
        self._wiring = self.folder / "wiring.json"
        self._stack = self.folder / "stack.json"

    def make(self) -> None:
        """Raises FlashError when the folder can be neither found nor made."""
        try:
            for folder in (self.folder, self.folder / "logs", self.nats, self.s3):
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise FlashError(f"{self.folder} cannot be used ({error.strerror}): choose another with --home") from error

    def log(self, name: str) -> Path:
        return self.folder / "logs" / f"{name}.log"

    def fresh_log(self, name: str) -> Path:
        """Where a process that starts now writes; a long log is put aside first, in place of the one before."""
        log = self.log(name)
        if log.exists() and log.stat().st_size > _LARGEST_LOG_BYTES:
            log.replace(log.with_suffix(".log.1"))
        return log

    def wiring(self, names: Iterable[str]) -> Wiring:
        """Ports for these names, and passwords: those of before, except for ports that are no longer free."""
        from flash.store.server import free_ports

        before = _read(self._wiring, Wiring)
        wiring = Wiring(
            ports=free_ports(names, before.ports if before else None),
            nats_password=before.nats_password if before else secrets.token_hex(24),
            s3_secret=before.s3_secret if before else secrets.token_hex(24),
            s3_keys=before.s3_keys if before else secrets.token_hex(24),
        )
        if wiring != before:
            write_private(self._wiring, msgspec.json.encode(wiring))
        return wiring

    def written(self) -> Stack | None:
        """What a supervisor wrote down last, whether it lives or not."""
        return _read(self._stack, Stack)

    def write(self, stack: Stack) -> None:
        write_private(self._stack, msgspec.json.encode(stack))

    def forget(self) -> None:
        self._stack.unlink(missing_ok=True)

    def running(self) -> Stack | None:
        """The stack whose supervisor lives."""
        stack = self.written()
        return stack if stack and is_alive(stack.pid, stack.started_at) else None

    def connection(self) -> str:
        """The running stack's bus. Raises NotFound, saying how to start one."""
        # Every command asks this, and psutil, which could tell another process of that pid, takes long to load: there,
        # nobody answers.
        stack = self.written()
        if not stack or not _exists(stack.pid):
            raise NotFound(f"no stack is running under {self.folder}: start one with `flash up`")
        return stack.nats_url

    @contextmanager
    def held(self) -> Iterator[None]:
        """Only one supervisor at a time. Raises Refused when there is one."""
        with (self.folder / "lock").open("ab") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                stack = self.running()
                which = f" (pid {stack.pid})" if stack else ""
                raise Refused(
                    f"a stack is already running under {self.folder}{which}: stop it with `flash down`"
                ) from None
            yield

    def sweep(self) -> list[str]:
        """End what a supervisor that died left running, and forget it; gives the names of what was ended."""
        stack = self.written()
        left = [part for part in stack.parts if is_alive(part.pid, part.started_at)] if stack else []
        for part in left:
            assert part.pid is not None
            end_group(part.pid)
        until = time.monotonic() + 5
        while any(is_alive(part.pid, part.started_at) for part in left) and time.monotonic() < until:
            time.sleep(0.02)
        self.forget()
        return [part.name for part in left]


def started_at(pid: int) -> float | None:
    """When a living process started, in seconds since the epoch; None when there is none."""
    import psutil

    try:
        found = psutil.Process(pid).as_dict(["status", "create_time"])  # type: ignore[no-untyped-call]
    except psutil.NoSuchProcess:
        return None
    return None if found["status"] == psutil.STATUS_ZOMBIE else float(found["create_time"])


def is_alive(pid: int | None, since: float) -> bool:
    """Does that very process live, and not another that has its pid?"""
    # The system's notion of when it booted moves a little as its clock is set.
    return pid is not None and (found := started_at(pid)) is not None and abs(found - since) < 2.0


def _exists(pid: int) -> bool:
    """There is a process of that pid, which has not ended."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, PermissionError):  # a supervisor is nobody else's
        return False
    except OSError:  # macOS has no /proc
        return True


def end_group(pid: int) -> None:
    """Kill the process group of a part, whatever is left in it."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        # Nobody is left; macOS says so by refusing.
        return


def last_lines(log: Path, most: int) -> list[str]:
    """Of those with something in them, as far back as 8 KiB."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 8_192))
        lines = file.read().decode(errors="replace").split("\n")
    return [line.rstrip() for line in lines if line.strip()][-most:]


def write_private(path: Path, data: bytes) -> None:
    """Replace a file by one that only its owner reads."""
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)
    beside.replace(path)


def _read(path: Path, kind: type[T]) -> T | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (FileNotFoundError, msgspec.DecodeError):
        # A file of another version of Flash is as good as none.
        return None
