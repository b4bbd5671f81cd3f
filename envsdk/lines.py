"""Tasks of a file with a row on each line, read when they are wanted: however many there are, one is in memory.

Where every so many rows begin is found once, and may be told to whoever reads the file next.
"""

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from envsdk.examples import TaskExample, output_alias, task_example_from_record
from envsdk.records import line_reader

EVERY = 1_024
"""Rows from one mark to the next."""

Mark = tuple[int, int]
"""Of a row: how many bytes of the file stand before its line, and how many lines."""

_BLANK = b" \t\n\r\x0b\x0c\x1c\x1d\x1e\x1f"
_BOM = b"\xef\xbb\xbf"


class LineFile(Sequence[TaskExample]):
    """The rows of a .jsonl or .txt file as `load_task_examples` gives them, a bad one when its turn comes."""

    def __init__(self, path: Path, known: tuple[int, list[Mark]] | None = None) -> None:
        """`known`: how many rows there are, and the marks, where somebody has looked already."""
        self._path, self._parse = path, line_reader(path)
        self.total, self.marks = known or _surveyed(path)
        self._rows: Iterator[TaskExample] = iter(())
        self._next = -1
        self._warned = False

    def __len__(self) -> int:
        return self.total

    def __iter__(self) -> Iterator[TaskExample]:
        return self._from(0)

    def __getitem__(self, at: Any) -> Any:
        if isinstance(at, slice):
            return [self[index] for index in range(*at.indices(self.total))]
        index = range(self.total)[at]
        if index != self._next:
            self._rows = self._from(index)
        self._next = -1  # unless the row is a good one
        task = next(self._rows)
        self._next = index + 1
        return task

    def _from(self, index: int) -> Iterator[TaskExample]:
        mark, behind = divmod(index, EVERY)
        offset, line = self.marks[mark] if self.marks else (0, 0)
        with self._path.open("rb") as file:
            file.seek(offset)
            for place, (number, text) in enumerate(_lines(file, line, self._path), start=mark * EVERY):
                if place >= mark * EVERY + behind:
                    yield self._task(text, place, f"{self._path} line {number}")

    def _task(self, text: str, index: int, where: str) -> TaskExample:
        record = self._parse(text, where)
        if not self._warned and (alias := output_alias(record)):
            self._warned = True
            warnings.warn(f"{where} has `{alias}` but no `output`; gold answers are read from `output` only, so rename "
                          "it if that is what it is", UserWarning, stacklevel=2)  # fmt: skip
        return task_example_from_record(record, index, where=where)


def _surveyed(path: Path) -> tuple[int, list[Mark]]:
    total, offset, marks = 0, 0, []
    with path.open("rb") as file:
        for number, line in enumerate(file):
            if not _is_blank(line):
                if total % EVERY == 0:
                    marks.append((offset, number))
                total += 1
            offset += len(line)
    return total, marks


def _lines(file: BinaryIO, before: int, path: Path) -> Iterator[tuple[int, str]]:
    """Lines that are not blank, with their numbers."""
    for number, line in enumerate(file, start=before + 1):
        if _is_blank(line):
            continue
        try:
            yield number, line.removeprefix(_BOM if number == 1 else b"").decode()
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is not UTF-8: line {number}: {error}") from error


def _is_blank(line: bytes) -> bool:
    stripped = line.strip(_BLANK)
    return not stripped or (
        not stripped.isascii() and not stripped.removeprefix(_BOM).decode("utf-8", "replace").strip()
    )
