"""Tools in the verifiers dialect: how they are described, called, and read out of what a policy writes."""

import asyncio
import json
from typing import Any

import pytest

from envsdk import verifiers as vf
from envsdk.verifiers.tools import read_calls, tool_def

ROWS = [{"question": "What is 2 + 2?", "answer": "4"}]


def add(a: int, b: int = 2, *, scale: float | None = None) -> int:
    """Add two numbers.

    Args:
        a: the first,
            a whole one
        b (int): the second

    Returns:
        the sum
    """
    if a == 13:
        raise ValueError("unlucky")
    return a + b


def test_a_tool_is_described_by_its_signature_and_docstring() -> None:
    assert tool_def(add) == {
        "name": "add",
        "description": "Add two numbers.",
        "parameters": {
            "type": "object",
            "properties": {
                "a": {"type": "integer", "description": "the first, a whole one"},
                "b": {"type": "integer", "description": "the second", "default": 2},
                "scale": {"anyOf": [{"type": "number"}, {"type": "null"}], "default": None},
            },
            "required": ["a"],
            "additionalProperties": False,
        },
    }


def calling(arguments: str, name: str = "add") -> vf.AssistantMessage:
    return vf.AssistantMessage(
        content=None, tool_calls=[{"id": "1", "function": {"name": name, "arguments": arguments}}]
    )


@pytest.mark.parametrize(
    ("call", "answer"),
    [
        (calling('{"a": 1, "b": 3}'), "4"),
        (calling('{"a": 13}'), "unlucky"),
        (calling("{not json"), "Expecting property name"),
        (calling("{}", name="subtract"), "'subtract'"),
        (calling('{"c": 1}'), "unexpected keyword argument 'c'"),
    ],
)
def test_what_a_tool_answers(call: vf.AssistantMessage, answer: str) -> None:
    env = vf.ToolEnv(tools=[add], dataset=ROWS)

    (message,) = asyncio.run(env.env_response([call], vf.State()))

    assert (message.role, message.tool_call_id) == ("tool", "1")
    assert answer in message.content


def test_an_error_of_stop_errors_ends_the_rollout() -> None:
    env = vf.ToolEnv(tools=[add], dataset=ROWS, stop_errors=[ValueError])

    with pytest.raises(vf.ToolCallError, match="add: unlucky"):
        asyncio.run(env.env_response([calling('{"a": 13}')], vf.State()))
    with pytest.raises(vf.ToolParseError):
        asyncio.run(env.env_response([calling("{")], vf.State()))


def test_calls_are_read_from_what_a_policy_writes() -> None:
    text, calls = read_calls('so <tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>')

    assert (text, calls[0].name, json.loads(calls[0].arguments)) == ("so", "add", {"a": 1})
    assert read_calls("<tool_call>nonsense</tool_call>") == ("<tool_call>nonsense</tool_call>", [])
    assert read_calls(" plain ") == (" plain ", [])
    assert read_calls('{"name": "an answer"}') == ('{"name": "an answer"}', [])


@pytest.mark.parametrize(
    "text",
    [
        '<tool_call>\n{"name": "add", "arguments": {"a": 1, "why": "so it is"}}\n</tool_call>',
        "<tool_call>\n<function=add>\n<parameter=a>\n1\n</parameter>\n<parameter=why>\nso it is\n</parameter>\n"
        "</function>\n</tool_call>",
        '{"name": "add", "parameters": {"a": 1, "why": "so it is"}}',
    ],
    ids=["qwen3", "qwen3.5", "llama"],
)
def test_calls_may_be_written_as_each_family_of_models_does(text: str) -> None:
    rest, [call] = read_calls(text, 3)

    assert (rest, call.id, call.name) == ("", "call_3", "add")
    assert json.loads(call.arguments) == {"a": 1, "why": "so it is"}


def test_a_stateful_tool_gets_what_the_policy_is_not_told_of() -> None:
    class Shelf(vf.StatefulToolEnv):
        def update_tool_args(
            self, tool_name: str, tool_args: dict[str, Any], messages: vf.Messages, state: vf.State, **options: Any
        ) -> dict[str, Any]:
            return {**tool_args, "taken": state["taken"], "asked": len(messages)}

    def take(book: str, taken: list[str], asked: int = 0) -> str:
        taken.append(book)
        return f"{len(taken)} after {asked}"

    env = Shelf(dataset=ROWS)
    env.add_tool(take, args_to_skip=["taken", "asked"])
    state = vf.State(taken=["a"])
    reply = calling('{"book": "b"}')
    reply["tool_calls"][0]["function"]["name"] = "take"
    [answer] = asyncio.run(env.env_response([reply], state))

    assert env.tool_defs[0]["parameters"]["properties"] == {"book": {"type": "string"}}
    assert env.tool_defs[0]["parameters"]["required"] == ["book"]
    assert (answer.content, state["taken"]) == ("2 after 1", ["a", "b"])
    env.remove_tool(take)
    assert (env.skipped_args, env.tool_defs) == ({}, [])


def test_removing_a_tool_takes_its_metric_along() -> None:
    env = vf.ToolEnv(tools=[add], dataset=ROWS)
    env.remove_tool(add)

    assert env.tool_defs == []
    assert "add_calls" not in [name for leaf in env.rubric.leaves() for name in leaf._names()]


def test_the_last_reply_keeps_its_tool_calls_and_they_are_not_made() -> None:
    def never(a: int) -> int:
        raise AssertionError("it was made")

    env = vf.ToolEnv(tools=[never], max_turns=1, dataset=ROWS)
    state = asyncio.run(env.begin(env.get_dataset()[0]))
    asyncio.run(env.add_reply(state, state["prompt"], calling('{"a": 1}', name="never")))

    assert asyncio.run(env.next_prompt(state)) is None
    assert state["stop_condition"] == "max_turns_reached"
    assert state["trajectory"][-1]["completion"][0].tool_calls[0].name == "never"
