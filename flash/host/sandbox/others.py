"""Somebody else: a uid that nobody has, and what whoever has it can get to and read."""

import os
import pwd
import random
import shutil
import stat
from pathlib import Path

from flash.host.sandbox import processes

UIDS = range(61_000, 65_000)
"""Of which each host that root starts gets one, and nobody else has any."""


def free_uid() -> int:
    taken = processes.uids()
    while True:
        uid = random.choice(UIDS)
        if uid not in taken and not _is_somebody(uid):
            return uid


def open_to_others(path: str) -> bool:
    """Anybody may get there and read it."""
    place = Path(path)
    if not place.exists():
        return True
    return _is_open(place.stat().st_mode) and all(parent.stat().st_mode & stat.S_IXOTH for parent in place.parents)


def open_once_there(path: str) -> bool:
    """Once somebody is there: it, and what lies right in it."""
    place = Path(path)
    if not place.exists():
        return True
    entries = [place, *place.iterdir()] if place.is_dir() else [place]
    return all(_is_open(entry.stat().st_mode) for entry in entries if entry.exists())


def all_open_once_there(folder: Path) -> bool:
    if not _is_open(folder.stat().st_mode):
        return False
    return all(
        _is_open(os.stat(os.path.join(root, name)).st_mode)
        for root, folders, files in os.walk(folder)
        for name in (*folders, *files)
    )


def opened_copy(folder: Path, copy: Path) -> Path:
    """A copy that anybody may read."""
    shutil.copytree(folder, copy)
    for path in (copy, *copy.rglob("*")):
        path.chmod(path.stat().st_mode | stat.S_IROTH | (stat.S_IXOTH if path.is_dir() else 0))
    return copy


def _is_somebody(uid: int) -> bool:
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return False
    return True


def _is_open(mode: int) -> bool:
    wanted = stat.S_IROTH | (stat.S_IXOTH if stat.S_ISDIR(mode) else 0)
    return mode & wanted == wanted
