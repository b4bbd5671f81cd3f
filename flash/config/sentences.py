"""What is wrong with a config, in one sentence: the key, the value found, and what is wanted. Pure."""

import difflib
import json
import math
import re
from collections.abc import Mapping
from typing import Any

from pydantic_core import ErrorDetails

from flash.config.keys import ALGORITHMS, Environment, RunConfig, Section, Wandb

LATER = {
    "notify": "this version of Flash sends no notifications: remove it, and `flash status RUN -f` follows a run",
}
"""Keys of the product that this version does not do anything with yet."""
TABLES: Mapping[str, type[Section]] = {"environment": Environment, "wandb": Wandb}
MANAGED = frozenset(
    {"gpu", "gpus", "resources", "retries", "max_retries", "max_wall_seconds", "wall_clock", "wall_clock_s", "storage",
     "disk", "hf_repo"}
)  # fmt: skip
"""What people look for among the keys, and the platform decides."""


def sentence(error: ErrorDetails, table: tuple[str, ...], algorithm: str) -> str:
    loc = (*table, *error["loc"])
    if error["type"] == "extra_forbidden":
        return _unknown(loc, algorithm)
    return f"{named(*loc)} is {shown(error['input'])}, but {_wanted(error)}"


def named(*path: object) -> str:
    """A key as people write it: `train.steps`."""
    return ".".join(
        part if re.fullmatch(r"[A-Za-z0-9_-]+", part) else shown(part, ascii_only=True) for part in map(str, path)
    )


def _wanted(error: ErrorDetails) -> str:
    limit = error.get("ctx", {})
    match error["type"]:
        case "int_type":
            found = error["input"]
            integral = isinstance(found, float) and found.is_integer()
            return f"a whole number is wanted: write {int(found)}" if integral else "a whole number is wanted"
        case "float_type" | "finite_number":
            return "a finite number is wanted"
        case "bool_type":
            return "true or false is wanted"
        case "string_type":
            found = error["input"]
            quotable = isinstance(found, int | float)
            return f"a text is wanted: write {shown(shown(found))}" if quotable else "a text is wanted"
        case "string_unicode":
            return "a text of whole characters is wanted"
        case "list_type":
            return "a list is wanted"
        case "dict_type" | "model_type":
            return f"it is a table: [{error['loc'][-1]}]"
        case "int_parsing_size":
            return "a number of fewer digits is wanted"
        case "greater_than_equal" if error["loc"] == ("group_size",):
            return "GRPO compares the rollouts of a group: set it to 2 or more"
        case "greater_than_equal":
            return f"{limit['ge']:.15g} or more is wanted"
        case "greater_than":
            return f"a number above {limit['gt']:.15g} is wanted"
        case "less_than_equal":
            return f"{limit['le']:.15g} or less is wanted"
        case "less_than":
            return f"a number below {limit['lt']} is wanted"
        case "literal_error":
            return (
                f"it is one of {limit['expected']}"
                if " or " in limit["expected"]
                else f"only {limit['expected']} is known"
            )
        case _:
            return error["msg"]


def _unknown(loc: tuple[Any, ...], algorithm: str) -> str:
    key, last = named(*loc), str(loc[-1])
    if len(loc) == 1 and last in LATER:
        return f"{key} is a key of a later version, and {LATER[last]}"
    if last in MANAGED:
        return f"{key} is managed by the platform and is no knob: remove it"
    if loc[0] == "train":
        for other, train in ALGORITHMS.items():
            if last in train.model_fields:
                return (
                    f'{key} is a knob of {other}, but algorithm is "{algorithm}": remove it, or set '
                    f'algorithm = "{other}"'
                )
        known = list(ALGORITHMS[algorithm].model_fields)
    else:
        known = list(TABLES.get(str(loc[0]), RunConfig).model_fields)
    if near := difflib.get_close_matches(last, known, n=1):
        return f"{key} is unknown: did you mean {named(*loc[:-1], near[0])}?"
    if table := _table_of(last):
        return f"{key} is unknown{'' if len(loc) > 1 else ' at the top'}: it belongs under {table}"
    return f"{key} is unknown; known {'there' if len(loc) > 1 else 'at the top'}: {', '.join(known)}"


def _table_of(key: str) -> str:
    """Where a key belongs that stands at the wrong place."""
    if key in ALGORITHMS or any(key in train.model_fields for train in ALGORITHMS.values()):
        return "[train]"
    if key in Environment.model_fields:
        return "[environment]"
    return "the top, before any table" if key in RunConfig.model_fields else ""


def shown(value: object, *, ascii_only: bool = False) -> str:
    """A value as its author wrote it, cut to one line."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    try:
        text = json.dumps(value, ensure_ascii=ascii_only)
    except (TypeError, RecursionError):
        text = json.dumps(str(value)[:80])
    text = text.encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= 80 else text[:77] + "..."
