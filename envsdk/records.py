"""Rows from files and iterables, in order, none lost. Errors name the file, the line, what was found and wanted."""

import json
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from envsdk import bson
from envsdk.examples import (
    TaskExample,
    normalize_record,
    output_alias,
    stable_example_id,
    target_messages,
    task_example_from_record,
)

__all__ = [
    "Source", "load_records", "load_task_examples", "normalize_record", "stable_example_id", "target_messages",
    "task_example_from_record",
]  # fmt: skip

Source = str | os.PathLike[str] | Iterable[Any]
"""A file, or rows: dicts, texts or TaskExamples."""


def load_records(source: Source) -> list[Any]:
    """The rows as they are found: objects, and for a text alone `{"input": text}`.

    Raises FileNotFoundError, and ValueError for a file of another kind or with a row that is no object.
    """
    return [record for record, _ in _located(source)]


def load_task_examples(source: Source) -> list[TaskExample]:
    """Every row as a task, ids by place. Warns once when rows seem to name their output otherwise."""
    examples: list[TaskExample] = []
    warned = False
    for index, (record, where) in enumerate(_located(source)):
        examples.append(task_example_from_record(record, index, where=where))
        if not warned and (alias := output_alias(record)):
            warned = True
            warnings.warn(
                f"{where} has `{alias}` but no `output`; gold answers are read from `output` only, "
                "so rename it if that is what it is",
                UserWarning,
                stacklevel=2,
            )
    return examples


def _located(source: Source) -> Iterator[tuple[Any, str]]:
    """Each row with the words that say where it stands."""
    if isinstance(source, str | os.PathLike):
        path = Path(source)
        reader = _READERS.get(path.suffix.lower())
        if reader is None:
            raise ValueError(f"{path} ends in {path.suffix!r}, wanted one of {', '.join(_READERS)}")
        if not path.is_file():
            raise FileNotFoundError(f"{path} is not there; a dataset is a file or a list of rows")
        yield from reader(path)
        return
    if isinstance(source, Mapping) or not isinstance(source, Iterable):
        raise ValueError(f"the dataset is a {type(source).__name__}, wanted a file or a list of rows")
    for index, record in enumerate(source):
        yield ({"input": record} if isinstance(record, str) else record), f"row {index + 1}"


def line_reader(path: Path) -> Callable[[str, str], Any]:
    """What makes a record of a line, which is not blank, and of the words that say where it stands.

    Raises KeyError for a file whose rows are no lines.
    """
    return _LINE_READERS[path.suffix.lower()]


def _jsonl(path: Path) -> Iterator[tuple[Any, str]]:
    for number, line in _lines(path):
        where = f"{path} line {number}"
        yield _json_line(line, where), where


def _json_line(line: str, where: str) -> Any:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where} is not JSON: {error}") from error
    return _row(record, where)


def _json(path: Path) -> Iterator[tuple[Any, str]]:
    try:
        found = json.loads(_read(path))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    rows = found.get("data") if isinstance(found, dict) else found
    if not isinstance(rows, list):
        kind = f"an object with {sorted(found)[:8]}" if isinstance(found, dict) else f"a {type(found).__name__}"
        raise ValueError(f'{path} holds {kind}, wanted a list of rows, or {{"data": [...]}}')
    for index, record in enumerate(rows):
        where = f"{path} item {index + 1}"
        yield _row(record, where), where


def _csv(path: Path) -> Iterator[tuple[Any, str]]:
    import csv  # where it is used: whatever a host has in memory costs each of its forks

    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.DictReader(file, strict=True)
        try:
            if "input" not in (rows.fieldnames or ()):
                raise ValueError(f"{path} has the columns {rows.fieldnames}, wanted a header with `input`")
            for row in rows:
                if None in row:
                    raise ValueError(f"{path} line {rows.line_num} has more cells than the header")
                yield row, f"{path} line {rows.line_num}"
        except csv.Error as error:
            raise ValueError(f"{path} line {rows.line_num} is not CSV: {error}") from error
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is not UTF-8: {error}") from error


def _txt(path: Path) -> Iterator[tuple[Any, str]]:
    for number, line in _lines(path):
        where = f"{path} line {number}"
        yield _text_line(line, where), where


def _text_line(line: str, where: str) -> Any:
    return {"input": line.strip()}


def _bson(path: Path) -> Iterator[tuple[Any, str]]:
    try:
        for index, document in enumerate(bson.documents(path.read_bytes())):
            yield document, f"{path} document {index + 1}"
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


_LINE_READERS = {".jsonl": _json_line, ".txt": _text_line}
_READERS = {".jsonl": _jsonl, ".json": _json, ".csv": _csv, ".txt": _txt, ".bson": _bson}


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Lines that are not blank, with their numbers. Only \\n ends a line: JSON text may hold U+2028 and its kin."""
    for number, line in enumerate(_read(path).split("\n"), start=1):
        if line.strip():
            yield number, line


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8: {error}") from error


def _row(record: Any, where: str) -> Any:
    if isinstance(record, str):
        return {"input": record}
    if not isinstance(record, dict):
        raise ValueError(f"{where} is a {type(record).__name__}, wanted an object with `input`, or a text")
    return record
