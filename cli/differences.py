"""What differs between two folders, as people read it. Pure but for reading the files."""

import difflib
import filecmp
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import msgspec

from cli import output

SHOWN_BYTES = 256 << 10
"""Of a file: a larger one is told by its size alone."""


class Change(msgspec.Struct, frozen=True):
    """A file that one of them has alone, or both in different words."""

    path: str
    kind: Literal["added", "removed", "changed"]
    lines: list[str]
    """A unified diff, or one line where the file is no text or large."""


def between(old: Path, new: Path) -> Iterator[Change]:
    """By name."""
    files = {
        side: {path.relative_to(side).as_posix() for path in side.rglob("*") if path.is_file()} for side in (old, new)
    }
    for name in sorted(files[old] | files[new]):
        if name not in files[old]:
            yield Change(name, "added", _lines(name, None, new / name))
        elif name not in files[new]:
            yield Change(name, "removed", _lines(name, old / name, None))
        elif not filecmp.cmp(old / name, new / name, shallow=False):
            yield Change(name, "changed", _lines(name, old / name, new / name))


def _lines(name: str, old: Path | None, new: Path | None) -> list[str]:
    texts = [_text(path) for path in (old, new)]
    names = f"a/{name}" if old else "/dev/null", f"b/{name}" if new else "/dev/null"
    before, after = texts
    if before is None or after is None:
        sizes = [output.size(path.stat().st_size) if path else "nothing" for path in (old, new)]
        return [f"--- {names[0]}", f"+++ {names[1]}", f"@@ {sizes[0]} became {sizes[1]}; too large, or no text @@"]
    return list(difflib.unified_diff(before, after, *names, lineterm=""))


def _text(path: Path | None) -> list[str] | None:
    """Its lines; None where it is large, or no text."""
    if path is None:
        return []
    if path.stat().st_size > SHOWN_BYTES:
        return None
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        return None
