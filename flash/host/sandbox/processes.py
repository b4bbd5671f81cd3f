"""Processes below one of ours, as `/proc` shows them: who they are, what they take, and that they are gone. Where there
is no `/proc`, as on macOS, `ps` is asked who they are, and nobody what they take.

Run as a script it is a guard: see `guard`. Standard library only, for that reason.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

_GIVE_UP_S = 5.0
_HAS_PROC = os.path.exists("/proc/self/stat")


def descendants(pid: int) -> list[int]:
    """Children's children first."""
    if not _HAS_PROC:
        return [found for found, _ in _asked_of_ps(pid)]
    try:
        children = [
            int(child)
            for task in os.listdir(f"/proc/{pid}/task")
            for child in Path(f"/proc/{pid}/task/{task}/children").read_text().split()
        ]
    except OSError:
        return []
    return [found for child in children for found in (*descendants(child), child)]


def kill_tree(root: int) -> None:
    """Kill a process and everything below it, also where that goes on forking: all are stopped before any is killed,
    since who is stopped forks no more, and whatever loses its parent meanwhile lands below the first.
    """
    _send(root, signal.SIGSTOP)
    give_up = time.monotonic() + _GIVE_UP_S
    for number, done in ((signal.SIGSTOP, "TtZX"), (signal.SIGKILL, "ZX")):
        while (left := [found for found, state in _below(root) if state not in done]) and time.monotonic() < give_up:
            for found in left:
                _send(found, number)
    _send(root, signal.SIGKILL)


def private_bytes(pid: int) -> int:
    """Memory that a process and all below it take for themselves."""
    return sum(map(_private_bytes, (pid, *descendants(pid)))) if _HAS_PROC else 0


def is_alive(pid: int) -> bool:
    """Somebody has that process id."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def threads_of(uid: int) -> int:
    """Processes and threads that a user has on the whole machine."""
    found = 0
    for entry in os.listdir("/proc"):
        with contextlib.suppress(OSError):
            if entry.isdigit() and os.stat(f"/proc/{entry}").st_uid == uid:
                found += len(os.listdir(f"/proc/{entry}/task"))
    return found


def uids() -> set[int]:
    """Who has a process on the machine."""
    found: set[int] = set()
    for entry in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(FileNotFoundError):  # it has ended meanwhile
            found.add(os.stat(f"/proc/{entry}").st_uid)
    return found


def _below(root: int) -> list[tuple[int, str]]:
    """Who is below, children's children first, and in which state."""
    return [(found, _state(found)) for found in descendants(root)] if _HAS_PROC else _asked_of_ps(root)


def _asked_of_ps(root: int) -> list[tuple[int, str]]:
    listed = subprocess.run(["ps", "-A", "-o", "pid=,ppid=,stat="], capture_output=True, text=True, check=False).stdout
    children: dict[int, list[tuple[int, str]]] = {}
    for pid, parent, state in (line.split(None, 2) for line in listed.splitlines()):
        children.setdefault(int(parent), []).append((int(pid), state[0]))
    found, waiting = [], [root]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += [pid for pid, _ in below]
    return found[::-1]


def _private_bytes(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith(("RssAnon:", "RssShmem:")))


def _state(pid: int) -> str:
    """As proc(5) has it; `X` where there is nobody."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "X"


def _send(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def guard(lines: Iterable[str]) -> None:
    """Note `+PID` and `-PID`, line by line; when the lines end, because their writer has, kill what is noted still."""
    noted: set[int] = set()
    for line in lines:
        (noted.add if line[0] == "+" else noted.discard)(int(line[1:]))
    for pid in noted:
        kill_tree(pid)


if __name__ == "__main__":
    guard(sys.stdin)
