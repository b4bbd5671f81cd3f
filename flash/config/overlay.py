"""Laying configs over one another: a file, then each `--config`, then each `--set`. Pure: tables in, tables out."""

import re
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from flash.errors import ConfigError

Table = dict[str, Any]

DEFAULT_ALGORITHM = "sft"

_NUMBER = re.compile(r"[+-]?[0-9](_?[0-9]){0,99}(\.[0-9]{1,99})?([eE][+-]?[0-9]{1,9})?")


def compose(layers: Sequence[Table], knobs: Mapping[str, Iterable[str]]) -> tuple[Table, list[str]]:
    """The table that the layers make, each over those before it, and notes on what was dropped.

    `knobs` are the keys of `[train]` by algorithm. A layer that switches `algorithm` takes with it the knobs that only
    the old algorithm knows; those the layer itself brings are left for the check of the whole to reject.
    """
    values: Table = {}
    notes: list[str] = []
    for index, layer in enumerate(layers):
        before, after = _algorithm(values), _algorithm({**values, **layer})
        if index and before != after:
            values, note = _switched(values, before, after, knobs)
            notes += note
        values = merged(values, layer)
    return values, notes


def merged(below: Table, above: Table) -> Table:
    """`above` over `below`: tables deeply, everything else whole."""
    result = dict(below)
    for key, value in above.items():
        under = result.get(key)
        result[key] = merged(under, value) if isinstance(under, dict) and isinstance(value, dict) else value
    return result


def settings(assignments: Iterable[str], is_text: Callable[[Sequence[str]], bool] = lambda path: False) -> Table:
    """The table that `--set a.b=v` options make, later ones over earlier ones.

    `is_text` says of a path whether a text stands there, so that `name=300` is one.

    Raises ConfigError for one that is no assignment, or that goes through a value as if it were a table.
    """
    table: Table = {}
    for text in assignments:
        if not is_whole(text):
            raise ConfigError(f"--set must be a text in UTF-8, but got {text!a}")
        path, found, value = text.partition("=")
        keys = path.strip().split(".")
        if not found or not all(keys):
            raise ConfigError(f"--set must be key=value, for example train.steps=300, but got {text!r}")
        value = value.strip()
        _put(table, keys, _unquoted(value) if is_text(keys) else parsed(value), path.strip())
    return table


def parsed(text: str) -> Any:
    """What a value on the command line means: `true`, `false`, a number, `[a, b]`, else the text itself."""
    return _items(text) if text.startswith("[") and text.endswith("]") and len(text) > 1 else _scalar(text)


def _scalar(text: str) -> bool | int | float | str:
    if text in ("true", "false"):
        return text == "true"
    if _NUMBER.fullmatch(text):
        return float(text) if any(mark in text for mark in ".eE") else int(text)
    return _unquoted(text)


def _items(text: str) -> list[Any]:
    """A list as TOML has it; where it is none, what stands between the commas."""
    try:
        return list(tomllib.loads(f"items = {text}")["items"])
    except (ValueError, RecursionError):
        inner = text[1:-1].strip()
        return [_scalar(item.strip()) for item in inner.split(",")] if inner else []


def _unquoted(text: str) -> str:
    return text[1:-1] if len(text) >= 2 and text[0] == text[-1] and text[0] in "\"'" else text


def is_whole(text: str) -> bool:
    """No half of a character is in it: it can be written down."""
    return not any("\ud800" <= char <= "\udfff" for char in text)


def _put(table: Table, keys: list[str], value: Any, path: str) -> None:
    for key in keys[:-1]:
        table = table.setdefault(key, {})
        if not isinstance(table, dict):
            raise ConfigError(f"--set path {path!r} goes through {key!r}, which is a value and no table")
    table[keys[-1]] = value


def _switched(values: Table, before: str, after: str, knobs: Mapping[str, Iterable[str]]) -> tuple[Table, list[str]]:
    train = values.get("train")
    if not isinstance(train, dict):
        return values, []
    foreign = set(knobs.get(before, ())) - set(knobs.get(after, ()))
    dropped = sorted(foreign & train.keys())
    if not dropped:
        return values, []
    kept = {key: value for key, value in train.items() if key not in foreign}
    names = ", ".join(f"train.{key}" for key in dropped)
    return {**values, "train": kept}, [f"algorithm is now {after}: dropped {names}, which only {before} knows"]


def _algorithm(values: Table) -> str:
    return str(values.get("algorithm", DEFAULT_ALGORITHM))
