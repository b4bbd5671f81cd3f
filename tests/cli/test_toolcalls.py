"""Tools at an endpoint: cli/toolcalls.py."""

import json
from typing import Any

import pytest

from cli.toolcalls import asked, said

TOOL = {"type": "function", "function": {"name": "add", "description": "", "parameters": {}}}
OPENING = [{"role": "system", "content": "", "tools": [TOOL]}, {"role": "user", "content": "1 + 1?"}]
WRITTEN = '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'


def tool(id: str) -> dict[str, Any]:
    return {"role": "tool", "content": "2", "tool_call_id": id}


def test_tools_go_beside_the_messages() -> None:
    assert asked(OPENING) == {"messages": OPENING[1:], "tools": [TOOL]}
    assert asked(OPENING[1:]) == {"messages": OPENING[1:]}


def test_what_a_policy_wrote_as_text_is_shown_as_calls_with_the_ids_that_tools_answer_to() -> None:
    turns = [
        {"role": "assistant", "content": f"So <tool_call>no</think>\n{WRITTEN}"}, tool("call_0"),
        {"role": "assistant", "content": f"{WRITTEN}{WRITTEN}"}, tool("call_1"), tool("call_2"),
        {"role": "assistant", "content": "2"},
    ]  # fmt: skip

    shown = asked([*OPENING, *turns])["messages"][1:]

    assert [message["content"] for message in shown if message["role"] == "assistant"] == [
        "So <tool_call>no</think>", "", "2",
    ]  # fmt: skip
    assert [call["id"] for message in shown for call in message.get("tool_calls", ())] == ["call_0", "call_1", "call_2"]
    assert shown[0]["tool_calls"][0]["function"] == {"name": "add", "arguments": '{"a": 1}'}
    assert json.loads(json.dumps(shown)) == shown


@pytest.mark.parametrize(
    ("text", "arguments", "whole"),
    [
        ("", '{"a": 1}', WRITTEN),
        ("Let me see.", '{"a": 1}', f"Let me see.\n{WRITTEN}"),
        ("", "", '<tool_call>\n{"name": "add", "arguments": ""}\n</tool_call>'),
        ("", None, '<tool_call>\n{"name": "add", "arguments": {}}\n</tool_call>'),
    ],
)
def test_an_environment_gets_calls_as_a_policy_would_write_them(text: str, arguments: Any, whole: str) -> None:
    assert said(text, [{"id": "x", "function": {"name": "add", "arguments": arguments}}]) == whole
    assert said(text, None) == text
