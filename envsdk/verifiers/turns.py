"""Messages on their way between an environment of this dialect and a policy, which reads and writes text."""

from collections.abc import Iterable, Sequence
from typing import Any

from envsdk.environments import with_system_text
from envsdk.examples import Message as PlainMessage
from envsdk.thinking import Answer, split_thinking
from envsdk.verifiers.messages import AssistantMessage, Message, Messages, as_plain, text_of
from envsdk.verifiers.tools import read_calls


def shown(prompt: Messages, prompt_text: str, tool_defs: Sequence[Any]) -> list[PlainMessage]:
    """A prompt as it is shown: after the run's prompt text, its tools on the system message."""
    messages = with_system_text(told(prompt), prompt_text)
    if not tool_defs:
        return messages
    tools = [_tool(known) for known in tool_defs]
    if messages[0].get("role") == "system":
        return [{**messages[0], "tools": tools}, *messages[1:]]
    return [{"role": "system", "content": "", "tools": tools}, *messages]


def told(messages: Iterable[Message]) -> list[PlainMessage]:
    """Plain messages, the parts of a content as one text."""
    found = as_plain(messages)
    return [
        {**message, "content": text_of(message["content"])} if isinstance(message.get("content"), list) else message
        for message in found
    ]


def turn(text: str, *, reads_tags: bool, may_call: bool, num_calls: int = 0) -> Message:
    """What the policy wrote: its thoughts apart, unless `reads_tags`, and its calls, which `num_calls` came before."""
    message = AssistantMessage(content=str(text))
    answer = text if isinstance(text, Answer) else None
    if answer is None and not reads_tags and "</think>" in text:
        answer = split_thinking(text)
    if answer is not None and reads_tags:
        opened = answer.raw if "<think>" in answer.raw or "</think>" not in answer.raw else f"<think>{answer.raw}"
        message["content"] = opened
    elif answer is not None:
        message["content"] = str(answer)
        if answer.thinking is not None:
            message["reasoning_content"] = answer.thinking
    if may_call:
        content, calls = read_calls(message["content"], num_calls)
        if calls:
            message.update(content=content, tool_calls=calls)
    return message


def num_calls(messages: Iterable[Message]) -> int:
    return sum(len(message.tool_calls or ()) for message in messages)


def _tool(known: Any) -> dict[str, Any]:
    """As OpenAI writes it; authors write it so, or flat."""
    return dict(known) if "function" in known else {"type": "function", "function": dict(known)}
