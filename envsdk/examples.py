"""A dataset row as a task, and its gold output as messages."""

import json
import warnings
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

Message = dict[str, Any]
"""One chat message: `role`, `content`, and what tools add."""


@dataclass(frozen=True)
class TaskExample:
    """One row of a dataset."""

    record: Any
    """The row as it was found, extra keys included."""
    input: str
    id: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    output: Any = None


def stable_example_id(index: int) -> str:
    """Ids are places in the dataset: `example_000000` is the first row."""
    return f"example_{index:06d}"


def normalize_record(record: Any, *, where: str = "the row") -> dict[str, Any]:
    """Exactly `input`, `output` and `metadata`. A text alone is an input.

    Raises ValueError, which begins with `where`, when the row is no object or has no input.
    """
    if isinstance(record, str):
        record = {"input": record}
    if not isinstance(record, Mapping):
        raise ValueError(f"{where} is {_kind(record)}, wanted an object with `input`, or a text")
    if record.get("input") is None:
        raise ValueError(f"{where} has no `input`; found {_keys(record)}{_alias_hint(record)}")
    metadata = record.get("metadata")
    return {
        "input": _text(record["input"], where),
        "output": record.get("output"),
        "metadata": dict(metadata) if isinstance(metadata, Mapping) else {},
    }


def task_example_from_record(record: Any, index: int = 0, *, where: str | None = None) -> TaskExample:
    """The row at place `index` as a task. A TaskExample keeps its fields, also those rewritten in code."""
    where = where or f"row {index + 1}"
    if not isinstance(record, Mapping) and hasattr(record, "input") and hasattr(record, "record"):
        fields = {"input": record.input, "output": record.output, "metadata": record.metadata}
        return TaskExample(record=record.record, id=stable_example_id(index), **normalize_record(fields, where=where))
    row = {"input": record} if isinstance(record, str) else record
    return TaskExample(record=row, id=stable_example_id(index), **normalize_record(row, where=where))


def target_messages(output: Any) -> list[Message]:
    """The gold turns: a trajectory as it is, anything else as one assistant turn.

    A trajectory is `{"messages": [...]}` or a non-empty list of objects that all have a text `role`. Raises ValueError
    for one that cannot be meant: other keys beside `messages`, a message without content.
    """
    if isinstance(output, Mapping) and "messages" in output:
        if others := sorted(str(key) for key in output if key != "messages"):
            raise ValueError(f"output has `messages` and also {', '.join(others)}; wanted `messages` alone")
        return _trajectory(output["messages"], "output.messages")
    if isinstance(output, list | tuple) and output and all(_has_role(item) for item in output):
        return _trajectory(output, "output")
    return [{"role": "assistant", "content": "" if output is None else _text(output, "output")}]


def checked_message(message: Any, where: str) -> Message:
    """A copy of the message with its role stripped. Raises ValueError, which begins with `where`."""
    if not isinstance(message, Mapping):
        raise ValueError(f"{where} is {_kind(message)}, wanted an object with `role` and `content`")
    role, content = message.get("role"), message.get("content")
    if not isinstance(role, str) or not role.strip():
        raise ValueError(f"{where} has role {role!r}, wanted a text such as 'user'")
    if content is None and not message.get("tool_calls"):
        raise ValueError(f"{where} has no content, which only a message with `tool_calls` may lack")
    if content is not None and not isinstance(content, str):
        raise ValueError(f"{where} has {_kind(content)} as content, wanted text")
    if message.get("tool_calls") is not None:
        _check_calls(message["tool_calls"], where)
    return {**message, "role": role.strip()}


def warn_missing_think_tags(examples: Iterable[TaskExample]) -> list[str]:
    """Ids of the rows whose gold output lacks a literal `<think>` and `</think>`; one UserWarning names the first five.

    Rows without output are skipped. Raises ValueError for an example without id.
    """
    missing = []
    for example in examples:
        if example.output is None:
            continue
        if example.id is None:
            raise ValueError("an example has no id; load it with load_task_examples")
        text = "".join(
            turn["content"]
            for turn in target_messages(example.output)
            if turn["role"] == "assistant" and isinstance(turn.get("content"), str)
        )
        if "<think>" not in text or "</think>" not in text:
            missing.append(example.id)
    if missing:
        first = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
        warnings.warn(
            f"{len(missing)} gold output(s) lack a literal <think>...</think> block ({first}); a thinking model "
            "trained on them unlearns to think",
            UserWarning,
            stacklevel=2,
        )
    return missing


_INPUT_ALIASES = ("prompt", "question", "query", "instruction", "problem", "text")
_OUTPUT_ALIASES = ("answer", "target", "completion", "response", "solution", "label", "expected")


def output_alias(record: Any) -> str | None:
    """A key that looks like the gold output of a row that has none."""
    if not isinstance(record, Mapping) or record.get("output") is not None:
        return None
    return next((key for key in _OUTPUT_ALIASES if key in record), None)


def _alias_hint(record: Mapping[str, Any]) -> str:
    alias = next((key for key in _INPUT_ALIASES if key in record), None)
    return f"; rename `{alias}` to `input`, there are no other names for it" if alias else ""


def _trajectory(messages: Any, where: str) -> list[Message]:
    if not isinstance(messages, list | tuple) or not messages:
        raise ValueError(f"{where} is {_kind(messages)}, wanted a list of at least one message")
    return [checked_message(message, f"{where}[{index}]") for index, message in enumerate(messages)]


def _check_calls(calls: Any, where: str) -> None:
    """Calls as OpenAI writes them, or flat; the arguments an object, or the JSON of one."""
    if not isinstance(calls, list | tuple):
        raise ValueError(f"{where} has {_kind(calls)} as tool_calls, wanted a list")
    for index, call in enumerate(calls):
        function = call.get("function", call) if isinstance(call, Mapping) else None
        name = function.get("name") if isinstance(function, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(name, str):
            raise ValueError(f'{where}.tool_calls[{index}] has no name; wanted {{"function": {{"name", "arguments"}}}}')
        arguments = function.get("arguments")
        if isinstance(arguments, str):
            with suppress(ValueError):
                arguments = json.loads(arguments)
        if arguments is not None and not isinstance(arguments, Mapping):
            raise ValueError(
                f"{where}.tool_calls[{index}] has {_kind(arguments)} as arguments, wanted an object, or its JSON"
            )


def _has_role(item: Any) -> bool:
    return isinstance(item, Mapping) and isinstance(item.get("role"), str)


def _text(value: Any, where: str) -> str:
    if isinstance(value, str):
        return value.strip()
    try:
        return json.dumps(value, indent=2, sort_keys=True)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where} holds {_kind(value)} that is neither text nor JSON: {error}") from error


def _keys(record: Mapping[str, Any]) -> str:
    return ", ".join(f"`{key}`" for key in list(record)[:8]) or "no keys"


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, list | tuple | dict) and not value:
        return f"an empty {type(value).__name__}"
    return f"a {type(value).__name__}"
