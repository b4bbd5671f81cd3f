"""Processes that somebody has left behind: orphans become children of whoever asked to reap them."""

import contextlib
import os
import signal
import time
from collections.abc import Callable
from collections.abc import Set as AbstractSet

_GIVE_UP_S = 3.0


def sweep(children: int, wanted: Callable[[], AbstractSet[int]], reap: Callable[[], object]) -> None:
    """Kill all children but the wanted ones, until there are no others. `children`: that file of `/proc`, open.

    Raises RuntimeError if they do not die.
    """
    give_up = time.monotonic() + _GIVE_UP_S
    while strays := {int(pid) for pid in os.pread(children, 1 << 16, 0).split()} - wanted():
        for pid in strays:
            kill(pid)
        reap()
        if time.monotonic() > give_up:
            raise RuntimeError(f"{len(strays)} processes that somebody left behind do not die")
        time.sleep(0.0005)


def kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, signal.SIGKILL)
