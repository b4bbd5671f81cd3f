"""The place of a fork: a folder for its files, one for what it prints, and a fence around both."""

import contextlib
import os
import sys

from .confinement import Confinement, Fence

_PASSES = 100_000
"""How deep folders may be nested and still go."""


class Slot:
    """Made before the fork, and emptied after it."""

    def __init__(self, folder: str, confinement: Confinement, loaded: str) -> None:
        """`loaded` is where the import could write, which forks may read."""
        self.folder = folder
        os.makedirs(self.folder, 0o700, exist_ok=True)
        self.output_fd = os.open(f"{self.folder}/output", os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        os.unlink(f"{self.folder}/output")
        self.fence = Fence(confinement, loaded, self.folder)

    def descriptors(self) -> list[int]:
        """What it holds open."""
        return [self.output_fd, *self.fence.descriptors()]

    def enter(self) -> None:
        """In the fork."""
        os.dup2(self.output_fd, 1)
        os.dup2(self.output_fd, 2)
        os.environ["TMPDIR"] = os.environ["HOME"] = self.folder
        if loaded := sys.modules.get("tempfile"):
            loaded.tempdir = self.folder  # type: ignore[attr-defined]

    def printed(self) -> int:
        return os.fstat(self.output_fd).st_size

    def empty(self) -> None:
        if self.printed():
            os.ftruncate(self.output_fd, 0)
        empty(self.folder)


def empty(folder: str) -> None:
    """Nothing is left in it, whatever somebody has put there."""
    for number in range(_PASSES):
        if not _flattened(folder, number):
            return


def _flattened(folder: str, number: int) -> bool:
    """Delete what lies in the folder, with what is two levels down brought up one: however deep somebody has nested
    folders, and whatever they may not do in them, nothing here recurses. False: it is empty.
    """
    with os.scandir(folder) as entries:
        found = list(entries)
    for entry in found:
        with contextlib.suppress(OSError):
            if not entry.is_dir(follow_symlinks=False):
                os.unlink(entry.path)
                continue
            os.chmod(entry.path, 0o700)
            with os.scandir(entry.path) as inner:
                for at, below in enumerate(inner):
                    if below.is_dir(follow_symlinks=False):
                        os.chmod(below.path, 0o700)
                        os.rename(below.path, f"{folder}/.{number}-{at}-{entry.inode()}")
                    else:
                        os.unlink(below.path)
            os.rmdir(entry.path)
    return bool(found)
