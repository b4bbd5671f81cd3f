"""Messages read as dicts and as objects."""

import json
from copy import deepcopy
from types import SimpleNamespace

import pytest

from envsdk import verifiers as vf
from envsdk.verifiers.messages import as_message, as_messages, as_plain, text_of


def test_a_message_is_a_dict_and_an_object() -> None:
    message = as_message({"role": "assistant", "content": "hi"})

    assert isinstance(message, dict)
    assert isinstance(message, vf.AssistantMessage)
    assert message["content"] == message.content == message.get("content") == "hi"
    assert message == {"role": "assistant", "content": "hi"}
    assert json.loads(json.dumps(message)) == message.model_dump() == message


def test_a_known_field_that_is_missing_reads_as_none_and_is_not_in_it() -> None:
    message = vf.AssistantMessage(content="hi")

    assert message.tool_calls is None
    assert message["tool_calls"] is None
    assert "tool_calls" not in message
    with pytest.raises(AttributeError, match="no 'contents'"):
        _ = message.contents
    with pytest.raises(KeyError):
        _ = message["contents"]


def test_a_tool_call_reads_flat_and_as_openai_writes_it() -> None:
    given = {"id": "c", "type": "function", "function": {"name": "add", "arguments": "{}"}}
    (call,) = as_message({"role": "assistant", "content": None, "tool_calls": [given]}).tool_calls

    assert (call.id, call.name, call.arguments, call["name"]) == ("c", "add", "{}", "add")
    assert call.function.name == call["function"]["name"] == "add"
    assert deepcopy(call) == call == given
    assert vf.ToolCall(id="c", name="add", arguments="{}") == given


def test_messages_are_read_from_whatever_has_role_and_content() -> None:
    class Model:
        def model_dump(self, **_: object) -> dict[str, object]:
            return {"role": "user", "content": "m"}

    found = as_messages([Model(), SimpleNamespace(role="system", content="s"), {"role": "tool", "content": "t"}])

    assert [type(message) for message in found] == [vf.UserMessage, vf.SystemMessage, vf.ToolMessage]
    assert as_plain(as_messages("just text")) == [{"role": "user", "content": "just text"}]
    with pytest.raises(TypeError, match=r"prompt\[0\] is a int"):
        as_messages([3], "prompt")


def test_columns_that_another_row_filled_are_left_out() -> None:
    assert as_message({"role": "user", "content": "q", "tool_calls": None}) == {"role": "user", "content": "q"}


def test_the_text_of_parts_is_joined() -> None:
    assert text_of([{"type": "text", "text": "a"}, {"type": "image_url"}, {"type": "text", "text": "b"}]) == "a b"
    assert text_of(None) == ""


def test_a_state_reads_and_writes_its_row() -> None:
    state = vf.State(input={"answer": "4", "prompt": []}, answer_was="x")

    state["answer"] = "5"

    assert state["input"]["answer"] == state["answer"] == state.get("answer") == "5"
    assert "answer" in state
    assert state.get("info") is None
