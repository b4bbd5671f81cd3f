"""A lock between the processes of one machine; the system frees it when its holder dies."""

import asyncio
import fcntl
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

_ASKED_S = 0.05


@asynccontextmanager
async def alone(lock: Path) -> AsyncIterator[None]:
    """Nobody else is in here meanwhile. `lock` is a file that is made for it, and stays."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    held = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        while True:
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:  # asked again: a thread that waits for it could not be cancelled
                await asyncio.sleep(_ASKED_S)
        yield
    finally:
        os.close(held)
