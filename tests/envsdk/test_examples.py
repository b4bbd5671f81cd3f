"""A row as a task, and its gold turns."""

from typing import Any

import pytest

from envsdk import target_messages, task_example_from_record, warn_missing_think_tags
from envsdk.examples import TaskExample, normalize_record

CALL: dict[str, Any] = {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "function": {"name": "add"}}]}


def calling(*calls: Any) -> list[Any]:
    return [{**CALL, "tool_calls": list(calls)}]


@pytest.mark.parametrize(
    ("given", "text"),
    [(" a \n", "a"), (False, "false"), (3, "3"), ({"b": 1, "a": 2}, '{\n  "a": 2,\n  "b": 1\n}'), ([], "[]")],
)
def test_input_is_text_stripped_and_anything_else_is_json(given: Any, text: str) -> None:
    assert normalize_record({"input": given, "id": 7}) == {"input": text, "output": None, "metadata": {}}


def test_metadata_that_is_no_object_is_empty() -> None:
    assert task_example_from_record({"input": "a", "metadata": [1]}).metadata == {}


@pytest.mark.parametrize(
    ("output", "content"), [("4 ", "4"), (False, "false"), ([], "[]"), (None, ""), (["a"], '[\n  "a"\n]')]
)
def test_a_scalar_output_is_one_assistant_turn(output: Any, content: str) -> None:
    assert target_messages(output) == [{"role": "assistant", "content": content}]


@pytest.mark.parametrize("wrap", [lambda turns: turns, lambda turns: {"messages": turns}])
def test_a_trajectory_keeps_tool_calls_and_names(wrap: Any) -> None:
    turns = [CALL, {"role": " tool ", "content": " 4 ", "name": "add", "tool_call_id": "1"}]

    assert target_messages(wrap(turns)) == [CALL, {**turns[1], "role": "tool"}]


@pytest.mark.parametrize("arguments", [{"a": 1}, '{"a": 1}', {}, None])
@pytest.mark.parametrize("flat", [True, False])
def test_calls_are_taken_as_openai_writes_them_and_flat(flat: bool, arguments: Any) -> None:
    function = {"name": "add", "arguments": arguments}
    turns = calling(function if flat else {"id": "1", "type": "function", "function": function})

    assert target_messages(turns) == turns


@pytest.mark.parametrize(
    ("output", "said"),
    [
        ({"messages": [CALL], "more": 1}, "also more"),
        ({"messages": []}, "at least one message"),
        ({"messages": "text"}, "wanted a list"),
        ({"messages": [3]}, r"messages\[0\] is a int"),
        ({"messages": [{"role": "", "content": "a"}]}, "role ''"),
        ([{"role": "user", "content": None}], "only a message with `tool_calls` may lack"),
        ([{"role": "user", "content": 3}], "a int as content"),
        ([{**CALL, "tool_calls": "add"}], r"\[0\] has a str as tool_calls, wanted a list"),
        (calling(3), r"tool_calls\[0\] has no name; wanted {\"function\""),
        (calling(CALL["tool_calls"][0], {"function": {"arguments": {}}}), r"tool_calls\[1\] has no name"),
        (calling({"name": "add", "arguments": [1]}), "a list as arguments, wanted an object, or its JSON"),
        (calling({"name": "add", "arguments": "{1"}), "a str as arguments"),
        (calling({"name": "add", "arguments": "[1]"}), "a list as arguments"),
    ],
)
def test_a_trajectory_that_cannot_be_meant_is_refused(output: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        target_messages(output)


def test_missing_think_tags_are_named_once() -> None:
    rows = ["<think>a</think>b", "no tags", None, "<think>open"]
    examples = [task_example_from_record({"input": "q", "output": row}, index) for index, row in enumerate(rows)]

    with pytest.warns(UserWarning, match="2 gold output") as said:
        missing = warn_missing_think_tags(examples)

    assert missing == ["example_000001", "example_000003"]
    assert len(said) == 1
    with pytest.raises(ValueError, match="no id"):
        warn_missing_think_tags([TaskExample(record={}, input="q", output="a")])
