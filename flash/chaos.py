"""Named points at which a test may kill this process: `FLASH_KILL_AT=<point>` or `<point>:<n>` for the n-th passing.

The bus passes `told` (replies published, message not acknowledged) and `acknowledged`; services name their own.
"""

import os
import signal

_passed: dict[str, int] = {}


def point(name: str) -> None:
    """Die here by SIGKILL if a test asked for it."""
    wanted = os.environ.get("FLASH_KILL_AT")
    if not wanted:
        return
    at, _, count = wanted.partition(":")
    _passed[name] = _passed.get(name, 0) + 1
    if at == name and _passed[name] == int(count or 1):
        os.kill(os.getpid(), signal.SIGKILL)
