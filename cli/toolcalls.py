"""Tools at an OpenAI-compatible endpoint: fields of their own there, and to environments the text of a policy."""

from collections.abc import Mapping, Sequence
from typing import Any

from flash.contracts.values import Message
from flash.models.tools import call_text, object_of, tools_of, with_tools


def asked(messages: Sequence[Message]) -> dict[str, Any]:
    """The messages as a request has them, and the tools that lie on them beside."""
    if not (tools := tools_of(messages)):
        return {"messages": messages}
    shown: list[Message] = []
    num_calls = 0
    for message in with_tools(messages, []):
        message = _with_fields(message, num_calls)
        num_calls += len(message.get("tool_calls") or ())
        shown.append(message)
    return {"messages": shown, "tools": tools}


def said(text: str, calls: Sequence[Mapping[str, Any]] | None) -> str:
    """What the model said, its calls in words."""
    functions = [call.get("function", call) for call in calls or ()]
    written = [call_text(function["name"], object_of(function.get("arguments"))) for function in functions]
    return "\n".join([text, *written] if text else written)


def _with_fields(message: Message, before: int) -> Message:
    """An assistant's calls as fields, numbered as environments number them: their tools answer by these ids."""
    if message["role"] != "assistant" or message.get("tool_calls") or not message.get("content"):
        return message
    from envsdk.verifiers.tools import read_calls  # only where there are tools: it is slow to import

    thought, mark, answer = message["content"].rpartition("</think>")
    content, calls = read_calls(answer, before)
    return {**message, "content": thought + mark + content, "tool_calls": calls} if calls else message
