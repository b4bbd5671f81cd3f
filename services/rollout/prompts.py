"""What the policy is shown."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from flash.contracts.spec import RunSpec, SamplingSpec
from flash.contracts.values import Message
from flash.models.rendering import following_ids, prompt_ids
from services.rollout.thoughts import Marks

_LAST_TOKENS = 16
"""Enough to hold `<think>` and the white space behind it, however they are cut into tokens."""


@dataclass(frozen=True)
class Prompt:
    """Messages as token ids."""

    ids: tuple[int, ...]
    opened: bool = False
    """It ends inside a `<think>`, so that what the policy writes begins with a thought."""
    marks: Marks = ((), ())


def render(tokenizer: Any, messages: Sequence[Message], thinking: bool) -> Prompt:
    return _prompt(tokenizer, prompt_ids(tokenizer, messages, thinking=thinking))


def follow(
    tokenizer: Any, messages: Sequence[Message], more: Sequence[Message], last_id: int, thinking: bool
) -> Prompt:
    """What the policy is shown after its answer to `messages`, whose last token was `last_id`: see `following_ids`."""
    return _prompt(tokenizer, following_ids(tokenizer, messages, more, last_id=last_id, thinking=thinking))


def room(spec: RunSpec, sampling: SamplingSpec, shown: int) -> int:
    """How many tokens an answer may have behind so many that are shown. Raises ValueError where none are left."""
    if spec.train is None:
        return sampling.max_tokens
    left = spec.train.max_length - shown
    if left < 1:
        raise ValueError(f"the prompt has {shown} tokens, and train.max_length = {spec.train.max_length} leaves none")
    return min(sampling.max_tokens, left)


def _prompt(tokenizer: Any, ids: Sequence[int]) -> Prompt:
    end = str(tokenizer.decode(ids[-_LAST_TOKENS:]))
    return Prompt(tuple(ids), end.rstrip().endswith("<think>"), _marks(tokenizer))


@lru_cache(maxsize=8)
def _marks(tokenizer: Any) -> Marks:
    begin, end = (tokenizer(mark, add_special_tokens=False)["input_ids"] for mark in ("<think>", "</think>"))
    return tuple(begin), tuple(end)
