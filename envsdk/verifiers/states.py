"""What is known of one rollout while it is played and scored."""

import json
import os
import time
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

from envsdk.verifiers.messages import Fields, as_messages

ROW_FIELDS = frozenset({"prompt", "answer", "info", "example_id"})
"""Fields of the row that are read and written through the state: `state["answer"]` is `state["input"]["answer"]`."""


class State(dict[str, Any]):
    """A dict. Functions of one rollout share it, so that later ones find what earlier ones put there."""

    def __getitem__(self, key: str) -> Any:
        row = self._row_with(key)
        return dict.__getitem__(self, key) if row is None else row[key]

    def __setitem__(self, key: str, value: Any) -> None:
        row = self._row_with(key)
        dict.__setitem__(self if row is None else row, key, value)

    def __contains__(self, key: object) -> bool:
        return dict.__contains__(self, key) or self._row_with(key) is not None

    def get(self, key: str, default: Any = None) -> Any:
        row = self._row_with(key)
        return dict.get(self, key, default) if row is None else row[key]

    def _row_with(self, key: object) -> dict[str, Any] | None:
        """The row, where the field is one of its own."""
        if key not in ROW_FIELDS:
            return None
        row = dict.get(self, "input")
        return row if isinstance(row, dict) and key in row else None


def opened(row: Mapping[str, Any], *, tool_defs: Sequence[Any] = (), **known: Any) -> State:
    """The state before the first turn, with a copy of the row of its own. Raises ValueError for `info` that is no JSON.

    `task` is the row's column of that name if it has one, else the row.
    """
    row = {**copied(dict(row)), "info": read_info(row.get("info"))}
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
        trajectory_id=os.urandom(16).hex(),
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
        return copied(info)
    try:
        return json.loads(info)
    except ValueError as error:
        raise ValueError(f"info is the text {info[:60]!r}, which is not JSON: {error}") from error


def copied(value: Any) -> Any:
    """A deep copy; of what JSON could hold a quick one, as every rollout has one of its row."""
    kind = type(value)
    if kind is str or kind is int or kind is float or kind is bool or value is None:
        return value
    if kind is dict:
        return {key: copied(item) for key, item in value.items()}
    return [copied(item) for item in value] if kind is list else deepcopy(value)


def step_of(prompt: Sequence[Any], completion: Sequence[Any], *, is_truncated: bool = False) -> dict[str, Any]:
    """A turn of the trajectory: what the policy was shown, and what it said."""
    return {
        "prompt": list(prompt), "completion": list(completion), "response": None, "tokens": None, "reward": None,
        "advantage": None, "is_truncated": is_truncated, "extras": {},
    }  # fmt: skip
