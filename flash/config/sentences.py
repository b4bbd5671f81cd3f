"""What is wrong with a config, in one sentence: the key, the value found, and what is wanted. Pure."""

import difflib
import json
import math
from typing import Any

from pydantic_core import ErrorDetails

from flash.config.keys import ALGORITHMS, Environment, RunConfig


def sentence(error: ErrorDetails, table: tuple[str, ...], algorithm: str) -> str:
    loc = (*table, *error["loc"])
    key = ".".join(str(part) for part in loc)
    if error["type"] == "extra_forbidden":
        return _unknown(loc, algorithm)
    return f"{key} is {shown(error['input'])}, but {_wanted(error)}"


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
            return "a text is wanted"
        case "list_type":
            return "a list is wanted"
        case "dict_type" | "model_type":
            return f"it is a table: [{error['loc'][-1]}]"
        case "greater_than_equal" if error["loc"] == ("group_size",):
            return "GRPO compares the rollouts of a group: set it to 2 or more"
        case "greater_than_equal":
            return f"{limit['ge']} or more is wanted"
        case "greater_than":
            return f"a number above {limit['gt']:g} is wanted"
        case "less_than_equal":
            return f"{limit['le']:g} or less is wanted"
        case "less_than":
            return f"a number below {limit['lt']} is wanted"
        case "literal_error":
            return f"it is one of {limit['expected']}"
        case _:
            return error["msg"]


def _unknown(loc: tuple[Any, ...], algorithm: str) -> str:
    key, last = ".".join(str(part) for part in loc), str(loc[-1])
    if loc[0] == "train":
        for other, train in ALGORITHMS.items():
            if last in train.model_fields:
                return (
                    f'{key} is a knob of {other}, but algorithm is "{algorithm}": remove it, or set '
                    f'algorithm = "{other}"'
                )
        known = list(ALGORITHMS[algorithm].model_fields)
    else:
        known = list(Environment.model_fields if loc[0] == "environment" else RunConfig.model_fields)
    above = ".".join(str(part) for part in loc[:-1])
    if near := difflib.get_close_matches(last, known, n=1):
        return f"{key} is unknown: did you mean {above + '.' if above else ''}{near[0]}?"
    if len(loc) == 1 and any(last in train.model_fields for train in ALGORITHMS.values()):
        return f"{key} is unknown at the top: it belongs under [train]"
    return f"{key} is unknown; known {'there' if above else 'at the top'}: {', '.join(known)}"


def shown(value: object) -> str:
    """A value as its author wrote it, cut to one line."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    try:
        text = json.dumps(value, ensure_ascii=False)
    except TypeError:
        text = str(value)
    return text if len(text) <= 80 else text[:77] + "..."
