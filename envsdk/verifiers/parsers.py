"""Finding the answer in what the policy wrote."""

import re
from collections.abc import Callable, Iterable, Sequence
from types import SimpleNamespace
from typing import Any

from envsdk.verifiers.messages import text_of

Extract = Callable[[str], Any]
"""What to make of a text that was found."""


def as_it_is(text: str) -> str:
    return text


class Parser:
    """The text of the last assistant message, through `extract_fn`."""

    def __init__(self, extract_fn: Extract = as_it_is) -> None:
        self.extract_fn = extract_fn

    def parse(self, text: str) -> Any:
        return self.extract_fn(text)

    def parse_answer(self, completion: Any) -> Any:
        """None where the assistant said nothing."""
        if isinstance(completion, str):
            return self.parse(completion)
        turns = self.get_assistant_messages(completion)
        return self.parse(_text(turns[-1])) if turns else None

    def get_format_reward_func(self) -> Callable[..., float]:
        """What the form of the answer earns: here always 1.0."""

        def format_reward_func(completion: Any, **_: Any) -> float:
            return 1.0

        return format_reward_func

    def get_assistant_messages(self, completion: Iterable[Any]) -> list[Any]:
        return _by(completion, "assistant")

    def get_system_messages(self, completion: Iterable[Any]) -> list[Any]:
        return _by(completion, "system")

    def get_user_messages(self, completion: Iterable[Any]) -> list[Any]:
        return _by(completion, "user")

    def get_tool_messages(self, completion: Iterable[Any]) -> list[Any]:
        return _by(completion, "tool")

    def _each_turn(self, score: Callable[[str], float]) -> Callable[..., float]:
        """The mean over the assistant's messages; 0.0 where there is none."""

        def format_reward_func(completion: Any, **_: Any) -> float:
            turns = self.get_assistant_messages(completion)
            return sum(score(_text(turn)) for turn in turns) / len(turns) if turns else 0.0

        return format_reward_func


class ThinkParser(Parser):
    """What follows the last `</think>`; nothing where there is none."""

    def parse(self, text: str) -> Any:
        return self.extract_fn(text.split("</think>")[-1].strip() if "</think>" in text else "")

    def get_format_reward_func(self) -> Callable[..., float]:
        """1.0 for a message that starts with `<think>`, has one pair of tags, and something after it."""

        def score(text: str) -> float:
            one_pair = text.count("<think>") == text.count("</think>") == 1
            return float(one_pair and text.strip().startswith("<think>") and bool(text.split("</think>")[-1]))

        return self._each_turn(score)


class MaybeThinkParser(Parser):
    """What follows the last `</think>`, or all of it where there is none."""

    def parse(self, text: str) -> Any:
        return self.extract_fn(text.split("</think>")[-1].strip())


class XMLParser(Parser):
    """Fields between tags of their name.

    A field is a name, or a tuple of alternatives of which the first is canonical: all are read, it is written.
    """

    def __init__(
        self,
        fields: Sequence[str | tuple[str, ...]],
        answer_field: str = "answer",
        extract_fn: Extract = as_it_is,
    ) -> None:
        super().__init__(extract_fn)
        self.answer_field = answer_field
        self._fields: dict[str, tuple[str, ...]] = {}
        for field in fields:
            names = (field,) if isinstance(field, str) else field
            if not isinstance(names, tuple) or not all(isinstance(name, str) for name in names):
                raise TypeError(f"field {field!r} is neither a text nor a tuple of texts")
            if not names:
                raise ValueError("a field is an empty tuple, wanted at least one name")
            if names[0] in self._fields:
                raise ValueError(f"Duplicate field name: {names[0]}")
            self._fields[names[0]] = names

    def parse(self, text: str, strip: bool = True, last: bool = False) -> Any:
        """An object with an attribute for each name; None where its tags are missing. The first match, or the last."""
        found: dict[str, str | None] = {}
        for name in self._names():
            inside = _inside(name, text, last=last)
            found[name] = inside.strip() if inside is not None and strip else inside
        return SimpleNamespace(**found)

    def parse_answer(self, completion: Any) -> str | None:
        """`answer_field` itself, not its alternatives: the last in a text, the first in the last message with one."""
        texts = (
            [completion]
            if isinstance(completion, str)
            else [_text(turn) for turn in reversed(self.get_assistant_messages(completion))]
        )
        for text in texts:
            parsed = self.parse(text, last=isinstance(completion, str))
            if (answer := getattr(parsed, self.answer_field, None)) is not None:
                return str(answer)
        return None

    def get_fields(self) -> list[str]:
        """The canonical names, in order."""
        return list(self._fields)

    def format(self, **values: Any) -> str:
        """The values between their tags. Raises ValueError for a field without one."""
        parts = []
        for canonical, names in self._fields.items():
            value = next((values[name] for name in names if name in values), None)
            if value is None:
                raise ValueError(f"Missing value for field '{canonical}' (allowed: {list(names)})")
            parts.append(f"<{canonical}>\n{value}\n</{canonical}>")
        return "\n".join(parts)

    def get_format_str(self) -> str:
        """What to show the policy."""
        shown = [names[0] if len(names) == 1 else f"[ {' | '.join(names)} ]" for names in self._fields.values()]
        return "\n".join(f"<{name}>\n...\n</{name}>" for name in shown)

    def get_format_reward_func(self) -> Callable[..., float]:
        """The mean over the assistant's messages of

        0.4 x share of the fields that are there + 0.2 + 0.2 if the first field starts it + 0.2 if the last ends it
        """
        return self._each_turn(self._form)

    def _form(self, text: str) -> float:
        sets = list(self._fields.values())
        parsed = vars(self.parse(text))
        if any(value is not None for value in parsed.values()):
            tagged = sum(any(f"<{name}>" in text or f"</{name}>" in text for name in names) for names in sets)
            score = 0.4 * (tagged / len(sets)) + 0.2
        else:
            score = 0.2
        score += 0.2 * any(text.strip().startswith(f"<{name}>") for name in sets[0])
        return score + 0.2 * any(text.strip().endswith(f"</{name}>") for name in sets[-1])

    def _names(self) -> list[str]:
        return [name for names in self._fields.values() for name in names]


def _inside(name: str, text: str, *, last: bool) -> str | None:
    pattern = re.compile(rf"<{name}>\s*(.*?)\s*</{name}>", re.DOTALL)
    if not last:
        match = pattern.search(text)
        return match.group(1) if match else None
    every = pattern.findall(text)
    return every[-1] if every else None


def _by(messages: Iterable[Any], role: str) -> list[Any]:
    return [message for message in messages if _field(message, "role") == role]


def _text(message: Any) -> str:
    return text_of(_field(message, "content"))


def _field(message: Any, name: str) -> Any:
    return message.get(name) if isinstance(message, dict) else getattr(message, name, None)
