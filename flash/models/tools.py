"""Tools in a chat, as a model's template can show them.

The tools that a policy may call lie on a system message, in OpenAI's form: `{"role": "system", "content": "...",
"tools": [{"type": "function", "function": {...}}]}`. A template that knows tools gets them, and shows calls in its own
manner. To one that does not, both are text, in the words of Qwen and Hermes.
"""

import json
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from flash.contracts.values import Message

Tool = dict[str, Any]

_PLAIN = {"role", "content", "reasoning_content", "name"}
_PROBE = "flash_probe"
_ASKED: Message = {"role": "user", "content": "ok"}
_CALLED: Message = {
    "role": "assistant",
    "content": "",
    "tool_calls": [{"id": "call00000", "type": "function", "function": {"name": _PROBE, "arguments": {}}}],
}
_KNOWN: Tool = {
    "type": "function",
    "function": {"name": _PROBE, "description": "", "parameters": {"type": "object", "properties": {}}},
}


def for_template(tokenizer: Any, messages: Sequence[Message]) -> tuple[list[Message], list[Tool]]:
    """The messages as the tokenizer's template takes them, and the tools that go beside them."""
    if not any(
        "tools" in message or message.get("tool_calls") or message.get("content") is None for message in messages
    ):
        return list(messages), []
    takes_tools, takes_calls = _takes(tokenizer, str(tokenizer.chat_template))
    tools = tools_of(messages)
    shown = [_with_calls(message, takes_calls) for message in with_tools(messages, [] if takes_tools else tools)]
    return shown, tools if takes_tools else []


def tools_of(messages: Sequence[Message]) -> list[Tool]:
    """What the policy may call."""
    return [tool for message in messages for tool in message.get("tools") or ()]


def with_tools(messages: Sequence[Message], told: Sequence[Tool]) -> list[Message]:
    """The messages without their tools; those of `told` are in words behind the system text."""
    shown = []
    for message in messages:
        if "tools" in message:
            text = "\n\n".join(part for part in (message.get("content"), tools_text(told) if told else "") if part)
            if not text:
                continue  # it was there for its tools only
            message = {**{key: value for key, value in message.items() if key != "tools"}, "content": text}
        shown.append(message)
    return shown


def tools_text(tools: Sequence[Tool]) -> str:
    listed = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools)
    return (
        "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
        "You are provided with function signatures within <tools></tools> XML tags:\n"
        f"<tools>\n{listed}\n</tools>\n\n"
        "For each function call, return a json object with function name and arguments within <tool_call></tool_call> "
        'XML tags:\n<tool_call>\n{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>'
    )


def call_text(name: str, arguments: Any) -> str:
    said = json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False)
    return f"<tool_call>\n{said}\n</tool_call>"


def object_of(arguments: Any) -> Any:
    """A call's arguments as an object; as they are where they are no JSON of one."""
    if not isinstance(arguments, str):
        return {} if arguments is None else arguments
    try:
        found = json.loads(arguments)
    except ValueError:
        return arguments
    return found if isinstance(found, dict) else arguments


def _with_calls(message: Message, takes_calls: bool) -> Message:
    """Arguments are objects, as templates want them, and text stands where there is nothing to say."""
    text = message.get("content") or ""
    if not message.get("tool_calls"):
        return {**message, "content": text}
    functions = [{**call.get("function", call)} for call in message["tool_calls"]]
    for function in functions:
        function["arguments"] = object_of(function.get("arguments"))
    if takes_calls:
        calls = [
            {**call, "type": "function", "function": function}
            for call, function in zip(message["tool_calls"], functions, strict=True)
        ]
        return {**message, "content": text, "tool_calls": calls}
    said = [call_text(function["name"], function["arguments"]) for function in functions]
    rest = {key: value for key, value in message.items() if key != "tool_calls"}
    return {**rest, "content": "\n".join([text, *said] if text else said)}


@lru_cache(maxsize=8)
def _takes(tokenizer: Any, template: str) -> tuple[bool, bool]:
    """Whether the template shows tools, and calls."""
    return _shows(tokenizer, [_ASKED], [_KNOWN]), _shows(tokenizer, [_ASKED, _CALLED], None)


def _shows(tokenizer: Any, messages: Sequence[Message], tools: list[Tool] | None) -> bool:
    from jinja2 import TemplateError

    try:
        return _PROBE in tokenizer.apply_chat_template(list(messages), tokenize=False, tools=tools)
    except TemplateError:
        return False
