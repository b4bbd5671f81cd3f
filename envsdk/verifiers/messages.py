"""Chat messages that behave as dicts and as objects, so that reward code written for either works.

    message["content"] == message.content == message.get("content")        isinstance(message, dict)

A field that chats know and that a message lacks reads as None (`message.tool_calls`), and is not `in` it.
"""

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

_KNOWN = frozenset({"content", "reasoning_content", "tool_calls", "tool_call_id", "name", "thinking_blocks"})


class Fields(dict[str, Any]):
    """A dict whose keys are attributes too."""

    known: ClassVar[frozenset[str]] = frozenset()
    """Keys that read as None where they are missing."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"{type(self).__name__} has no {name!r}; it has {', '.join(self)}") from None

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value

    def __missing__(self, key: str) -> Any:
        if key in self.known:
            return None
        raise KeyError(key)

    def model_dump(self, **_: Any) -> dict[str, Any]:
        return dict(self)


class ToolCall(Fields):
    """A call as OpenAI writes it, `{"id", "type", "function": {"name", "arguments"}}`, and flat: `call.name`."""

    def __init__(self, id: str = "", name: str = "", arguments: str = "{}", **other: Any) -> None:
        function = other.pop("function", None)
        if function is not None:
            name, arguments = _get(function, "name") or "", _get(function, "arguments")
        super().__init__(id=id, type="function", function=Fields(name=name, arguments=arguments))

    def __missing__(self, key: str) -> Any:
        if key in ("name", "arguments"):
            return self["function"][key]
        raise KeyError(key)

    def __reduce__(self) -> Any:
        return _copied_call, (dict(self),)


class Message(Fields):
    """One chat message."""

    role: str
    known = _KNOWN

    def __init__(self, *args: Any, **fields: Any) -> None:
        super().__init__(*args, **fields)
        if default := _ROLE_OF.get(type(self)):
            self.setdefault("role", default)
        if calls := self.get("tool_calls"):
            self["tool_calls"] = [_call(call) for call in calls]


class SystemMessage(Message):
    pass


class UserMessage(Message):
    pass


class AssistantMessage(Message):
    pass


class ToolMessage(Message):
    pass


Messages = list[Message]

_ROLE_OF: dict[type, str] = {
    SystemMessage: "system", UserMessage: "user", AssistantMessage: "assistant", ToolMessage: "tool",
}  # fmt: skip
_OF_ROLE: dict[str, Any] = {role: kind for kind, role in _ROLE_OF.items()}


def as_messages(value: Any, where: str = "messages") -> Messages:
    """Messages of any kind as ours; a text alone is what a user said. Raises TypeError, which begins with `where`."""
    if isinstance(value, str):
        return [UserMessage(content=value)]
    if isinstance(value, Mapping) or not isinstance(value, Iterable):
        raise TypeError(f"{where} is a {type(value).__name__}, wanted a list of messages, or a text")
    return [as_message(message, f"{where}[{at}]") for at, message in enumerate(value)]


def as_message(value: Any, where: str = "message") -> Message:
    """A message as ours. Raises TypeError, which begins with `where`."""
    if isinstance(value, Message):
        return value
    if isinstance(value, Mapping):
        fields = dict(value)
    elif hasattr(value, "model_dump"):
        fields = value.model_dump(exclude_none=True)
    elif hasattr(value, "role") and hasattr(value, "content"):
        names = ("role", *sorted(_KNOWN))
        fields = {name: found for name in names if (found := getattr(value, name, None)) is not None}
    else:
        raise TypeError(f"{where} is a {type(value).__name__}, wanted an object with `role` and `content`")
    # a dataset's columns hold null where another row's message has tool calls
    fields = {name: found for name, found in fields.items() if found is not None or name == "content"}
    kind: type[Message] = _OF_ROLE.get(str(fields.get("role")), Message)
    return kind(fields)


def as_plain(messages: Iterable[Message]) -> list[dict[str, Any]]:
    """Plain dicts, as they travel."""
    return [_plain(message) for message in messages]


def text_of(content: Any) -> str:
    """The text of a message's content; of several parts, the text parts joined by a space."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list | tuple):
        return ""
    parts = []
    for part in content:
        text = part.get("text") if isinstance(part, Mapping) else getattr(part, "text", None)
        kind = part.get("type") if isinstance(part, Mapping) else "text"
        if kind == "text" and isinstance(text, str):
            parts.append(text)
    return " ".join(parts).strip()


def _call(value: Any) -> ToolCall:
    if isinstance(value, ToolCall):
        return value
    if hasattr(value, "model_dump"):
        value = value.model_dump()
    return ToolCall(**{str(key): found for key, found in dict(value).items() if key != "type"})


def _copied_call(fields: dict[str, Any]) -> ToolCall:
    return ToolCall(id=fields["id"], function=dict(fields["function"]))


def _get(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, Mapping) else getattr(value, name, None)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
