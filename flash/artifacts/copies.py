"""Unpacked environments that several processes of a machine share: whoever works in one holds it, and it stays."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def hold(folder: Path) -> int | None:
    """A descriptor for as long as which `remove` leaves the folder there; None: there is none."""
    while True:
        try:
            held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            return None
        fcntl.flock(held, fcntl.LOCK_SH)
        if _is_at(folder, held):  # else it was removed while we waited
            return held
        os.close(held)


@contextmanager
def holding(folder: Path) -> Iterator[None]:
    """`hold`, for a block."""
    held = hold(folder)
    try:
        yield
    finally:
        if held is not None:
            os.close(held)


def remove(folder: Path) -> bool:
    """Take it away, all at once, unless somebody holds it: then False."""
    try:
        held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _is_at(folder, held):
            aside = tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent)
            os.rename(folder, aside)  # over an empty folder
            shutil.rmtree(aside)
    except BlockingIOError:
        return False
    finally:
        os.close(held)
    return True


def _is_at(folder: Path, held: int) -> bool:
    try:
        return os.path.samestat(folder.stat(), os.fstat(held))
    except FileNotFoundError:
        return False
