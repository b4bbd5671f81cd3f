"""What `env test` answers in the policy's place. Pure."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cli.toolcalls import said
from flash.contracts.values import Example

HUGE_CHARS = 200_000

_TAG = re.compile(r"<([A-Za-z_][A-Za-z0-9_-]{0,40})>")
_UNICODE = "\u202e٣ ½ ①🙂 e\u0301 \u200b\ufeff \x00\x07 Ω≠ω İı ß 中文"


@dataclass(frozen=True)
class Reply:
    """An answer that nobody has thought about."""

    name: str
    """As it stands in a sentence: "an empty answer"."""
    text: str


GOLD = "the expected answer"

JUNK: tuple[Reply, ...] = (
    Reply("an empty answer", ""),
    Reply("an answer of white space", " \n\t "),
    Reply("a huge answer", "word " * (HUGE_CHARS // 5)),
    Reply("a number of 5,000 digits", "9" * 5_000),
    Reply("odd Unicode", _UNICODE),
    Reply("an opened tag", "<answer>"),
    Reply("a closed tag", "</answer></think>"),
    Reply("an unfinished thought", "<think>I wonder"),
    Reply("torn JSON", '{"answer": ['),
    Reply("empty JSON", "{}"),
    Reply("a list for an answer", '["a", null, 1e999]'),
    Reply("not a number", "NaN"),
    Reply("a division by zero", "1/0"),
    Reply("a format string", "{} {0.__class__} %s %(x)d \\1"),
    Reply("3,000 brackets", "(" * 3_000),
    Reply("an open box", "\\boxed{\\frac{1}{"),
)
"""None of these is right for a task that anybody would set, but one: see `junk_for`."""


def junk_for(example: Example, wanted: Sequence[str] = ()) -> list[Reply]:
    """Replies to a row that are wrong: none that is one of the `wanted`."""
    prompt = "\n".join(str(message.get("content") or "") for message in example.messages)
    right = {text.strip() for text in wanted}
    return [reply for reply in (*JUNK, Reply("the prompt again", prompt)) if reply.text.strip() not in right]


def gold_turns(example: Example) -> list[str]:
    """What the assistant says in the gold turns, calls of tools in words, as a policy writes them."""
    turns = [turn for turn in example.completion or [] if turn.get("role") == "assistant"]
    return [said(str(turn.get("content") or ""), turn.get("tool_calls")) for turn in turns]


def gold_text(example: Example) -> str | None:
    """What the gold turns end with; None where there are none, or they say nothing."""
    turns = gold_turns(example)
    return turns[-1] if turns and turns[-1] else None


def wrapped(text: str, example: Example) -> Iterator[tuple[str, str]]:
    """The gold text in the formats that a prompt may ask for, each with its name: a label alone is often not enough."""
    prompt = "\n".join(str(message.get("content") or "") for message in example.messages)
    for tag in dict.fromkeys([*_TAG.findall(prompt), "answer"]):
        yield f"inside <{tag}>", f"<{tag}>{text}</{tag}>"
    yield "in \\boxed{}", f"\\boxed{{{text}}}"
    yield "after ####", f"#### {text}"
    yield "after `Answer:`", f"Answer: {text}"
