"""What is known of one rollout while it is played and scored."""

import json
import time
import uuid
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

from envsdk.verifiers.messages import Fields, as_messages

ROW_FIELDS = ("prompt", "answer", "info", "example_id")
"""Fields of the row that are read and written through the state: `state["answer"]` is `state["input"]["answer"]`."""


class State(dict[str, Any]):
    """A dict. Functions of one rollout share it, so that later ones find what earlier ones put there."""

    def __getitem__(self, key: str) -> Any:
        row = dict.get(self, "input")
        if key in ROW_FIELDS and isinstance(row, Mapping) and key in row:
            return row[key]
        return super().__getitem__(key)

    def __setitem__(self, key: str, value: Any) -> None:
        row = dict.get(self, "input")
        if key in ROW_FIELDS and isinstance(row, dict) and key in row:
            row[key] = value
        else:
            super().__setitem__(key, value)

    def __contains__(self, key: object) -> bool:
        row = dict.get(self, "input")
        return super().__contains__(key) or (key in ROW_FIELDS and isinstance(row, Mapping) and key in row)

    def get(self, key: str, default: Any = None) -> Any:
        try:
            return self[key]
        except KeyError:
            return default


def opened(row: Mapping[str, Any], *, tool_defs: Sequence[Any] = (), **known: Any) -> State:
    """The state before the first turn, with a copy of the row of its own. Raises ValueError for `info` that is no JSON.

    `task` is the row's column of that name if it has one, else the row.
    """
    row = {**deepcopy(dict(row)), "info": read_info(row.get("info"))}
    row["prompt"] = as_messages(row["prompt"], "prompt")
    row.setdefault("answer", "")
    state = State(input=row)
    state.update(
        task=row["task"] if row.get("task") is not None else row,
        client=None,
        model="",
        sampling_args=None,
        is_completed=False,
        is_truncated=False,
        stop_condition=None,
        tool_defs=list(tool_defs),
        trajectory=[],
        trajectory_id=uuid.uuid4().hex,
        completion=None,
        reward=None,
        metrics=None,
        error=None,
        final_env_response=None,
        timing=Fields(start_time=time.time()),
    )
    state.update(known)
    return state


def read_info(info: Any) -> Any:
    """A dict as it is; a text is the JSON of one; nothing is an empty one."""
    if info is None:
        return {}
    if not isinstance(info, str):
        return deepcopy(info)
    try:
        return json.loads(info)
    except ValueError as error:
        raise ValueError(f"info is the text {info[:60]!r}, which is not JSON: {error}") from error


def step_of(prompt: Sequence[Any], completion: Sequence[Any], *, is_truncated: bool = False) -> dict[str, Any]:
    """A turn of the trajectory: what the policy was shown, and what it said."""
    return {
        "prompt": list(prompt), "completion": list(completion), "response": None, "tokens": None, "reward": None,
        "advantage": None, "is_truncated": is_truncated, "extras": {},
    }  # fmt: skip
