"""Which rows a run works through, and its prompt text: from the params, the author's code, or the package's files."""

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from envsdk.examples import TaskExample
from envsdk.lines import LineFile, Mark
from envsdk.records import Source, load_task_examples

DEFAULT_SPLIT = "train"
SUITES = "suites"
"""The cases of `evaluations.py`."""
USUAL_SPLITS = ("train", "eval", "validation", "val", "dev", "test")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def load_split(
    folder: Path,
    environment: Any,
    params: Mapping[str, Any],
    split: str,
    *,
    own: str,
    in_code: bool,
    known: tuple[int, list[Mark]] | None = None,
) -> Sequence[TaskExample]:
    """The rows of a split.

    `own` is the split that the run works through: for it the params `records` and `dataset_path` come first, then, with
    `in_code`, the rows that the environment made itself, then the file. Any other split is its file, unless the
    environment's `split_rows` knows it. A file of lines is not loaded whole: `known` is what a LineFile knew of it.
    Raises FileNotFoundError and ValueError saying what was looked for.
    """
    if not _NAME.fullmatch(split):
        raise ValueError(f"split is {split!r}, wanted letters, digits and ._- after a letter or digit")
    read = getattr(environment, "task_examples", partial(_read, known=known))
    if split == own:
        if params.get("records") is not None:
            return _some(read(params["records"]), "param `records`")
        if params.get("dataset_path") is not None:
            return _some(read(inside(folder, str(params["dataset_path"]))), "param `dataset_path`")
    rows_of = getattr(environment, "split_rows", None)
    if rows_of and (rows := rows_of(split)) is not None:
        return _some(rows, f"the environment's rows for split {split!r}")
    if split == own and in_code and (own_rows := _rows_in_code(environment)) is not None:
        name, source = own_rows
        source = inside(folder, source) if isinstance(source, str) else source
        return _some(_read(source, known=known), f"the environment's `{name}`")
    path = split_file(folder, split)
    if path is None:
        raise FileNotFoundError(_missing(folder, split))
    return _some(read(path), path.name)


def split_file(folder: Path, split: str) -> Path | None:
    """`dataset/S.jsonl`, `dataset/S.json`, `S.jsonl`, `S.json`: the first that is there."""
    places = (folder / "dataset", folder)
    found = (place / f"{split}{suffix}" for place in places for suffix in (".jsonl", ".json"))
    return next((path for path in found if path.is_file()), None)


def split_names(folder: Path, own: str, environment: Any = None) -> list[str]:
    """The splits that can be told to be some: the run's own, the author's other ones, and files of the usual names."""
    has = getattr(environment, "has_split", lambda _: False)
    usual = [name for name in USUAL_SPLITS if name != own and (has(name) or split_file(folder, name))]
    return [own, *usual, *([SUITES] if own != SUITES and has_suites(folder) else [])]


def has_suites(folder: Path) -> bool:
    return (folder / "evaluations.py").is_file()


def prompt_text(folder: Path, params: Mapping[str, Any]) -> str:
    """Param `contract_text`, else the file at `contract_path`, else TRAINING_CONTRACT.md, else nothing."""
    if params.get("contract_text"):
        return str(params["contract_text"])
    if params.get("contract_path"):
        return inside(folder, str(params["contract_path"])).read_text(encoding="utf-8")
    contract = folder / "TRAINING_CONTRACT.md"
    return contract.read_text(encoding="utf-8") if contract.is_file() else ""


def inside(folder: Path, place: str) -> Path:
    """A path of the package. Raises ValueError for one that leads out of it."""
    path = (folder / place).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise ValueError(f"{place!r} leads out of the environment's folder")
    return path


def _read(source: Source, known: tuple[int, list[Mark]] | None) -> Sequence[TaskExample]:
    if isinstance(source, Path) and source.suffix.lower() in (".jsonl", ".txt") and source.is_file():
        return LineFile(source, known)
    return load_task_examples(source)


def _rows_in_code(environment: Any) -> tuple[str, Any] | None:
    for name in ("dataset", "examples"):
        if (rows := getattr(environment, name, None)) is not None:
            # A Dataset of the real freesolo package holds its rows, and is none itself.
            return name, rows if isinstance(rows, Iterable) else getattr(rows, "examples", rows)
    return None


def _some(examples: Sequence[TaskExample], origin: str) -> Sequence[TaskExample]:
    if not examples:
        raise ValueError(f"{origin} holds no rows")
    return examples


def _missing(folder: Path, split: str) -> str:
    wanted = f"dataset/{split}.jsonl, dataset/{split}.json, {split}.jsonl or {split}.json"
    if (folder / "datasets").is_dir() and not (folder / "dataset").is_dir():
        return f"there is no {wanted}; the folder `datasets` is not read, rename it to `dataset`"
    has_train = ", although there is a train split" if split != DEFAULT_SPLIT and split_file(folder, "train") else ""
    return f"the environment has no `dataset` of its own for split {split!r}, and there is no {wanted}{has_train}"
