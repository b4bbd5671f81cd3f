"""From messages to token ids, by the model's own chat template.

A conversation is rendered turn by turn, and each rendering must begin with the one before: only then does training see
the very tokens that sampling saw. The ids of a prompt therefore always open the ids of what follows it.

Legend: T tokens.
"""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flash.contracts.values import Message
from flash.errors import FlashError, NotFound
from flash.models.tools import for_template

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase as Tokenizer
else:
    Tokenizer = Any


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer that lies beside a model's weights; nothing is looked up elsewhere.

    Raises NotFound for a folder without a tokenizer, FlashError for a tokenizer without a chat template.
    """
    from transformers import AutoTokenizer

    if not (folder / "tokenizer_config.json").is_file():
        raise NotFound(f"{folder} has no tokenizer_config.json, so it is not a folder with a model: pull it again")
    tokenizer: Tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    if not tokenizer.chat_template:
        raise FlashError(
            f"the tokenizer in {folder} has no chat template, so messages cannot be shown to this model: "
            "use its instruct version"
        )
    return tokenizer


def prompt_ids(tokenizer: Tokenizer, messages: Sequence[Message], *, thinking: bool = False) -> list[int]:
    """[T] what the policy is shown: the messages, and the header after which it is to speak."""
    return _encode(tokenizer, _render(tokenizer, messages, thinking, header=True))


def sft_ids(
    tokenizer: Tokenizer, prompt: Sequence[Message], completion: Sequence[Message], *, thinking: bool = False
) -> tuple[list[int], list[int]]:
    """[T] ids of the whole conversation, and [T] mask: 1 on what the assistant says in `completion`, else 0.

    What it says includes the token that ends its turn, and never what the template adds by itself: role headers, the
    line break after a turn, the turns of users and tools. The ids begin with `prompt_ids` of the same messages when
    the completion begins with an assistant turn.

    Raises FlashError where the template renders an earlier turn differently once later ones follow, and where it
    ends an assistant turn with no token that could stop sampling.
    """
    ends = _end_of_turn_ids(tokenizer)
    messages, told = list(prompt), ""
    ids: list[int] = []
    mask: list[int] = []

    def go_on(text: str, spoken: bool) -> None:
        nonlocal told
        more = _continued(tokenizer, told, text, ids)
        ids.extend(more)
        mask.extend(_spoken(more, ends) if spoken else [0] * len(more))
        told = text

    for turn in completion:
        speaks = turn["role"] == "assistant"
        if speaks:
            go_on(_render(tokenizer, messages, thinking, header=True), spoken=False)
        messages.append(turn)
        go_on(_render(tokenizer, messages, thinking, header=False), spoken=speaks)
    return ids, mask


def following_ids(
    tokenizer: Tokenizer, messages: Sequence[Message], more: Sequence[Message], *, last_id: int, thinking: bool = False
) -> list[int]:
    """[T] what stands between a turn of the policy and its next one: the end of its turn, `more`, and a new header.

    `messages` are those that the policy answered. What it wrote is neither asked for nor encoded: the template is shown
    a mark in its place, and what comes behind the mark is what follows. `last_id` is the last token that it wrote: an
    end of turn that it wrote itself is not written twice.
    """
    mark = _mark(more)
    turns = [*messages, {"role": "assistant", "content": mark}, *more]
    ids = _encode(tokenizer, _render(tokenizer, turns, thinking, header=True).rpartition(mark)[2])
    return ids[1:] if ids[:1] == [last_id] else ids


def closing_ids(tokenizer: Tokenizer, model_config: Any) -> frozenset[int]:
    """The ids that end an answer: EOS, as tokenizer and model know it, and what the template ends a turn with."""
    eos = model_config.eos_token_id
    declared = eos if isinstance(eos, list | tuple) else [eos]
    return frozenset(id for id in (*declared, *_end_of_turn_ids(tokenizer)) if id is not None)


def _render(tokenizer: Tokenizer, messages: Sequence[Message], thinking: bool, *, header: bool) -> str:
    # Text and not ids: since transformers 5 `tokenize=True` gives a BatchEncoding, and we cut between turns anyway.
    # `enable_thinking` is how Qwen3 and its likes are told; other templates take no notice of it.
    shown, tools = for_template(tokenizer, messages)
    text = tokenizer.apply_chat_template(
        shown, tools=[*tools] or None, tokenize=False, add_generation_prompt=header, enable_thinking=thinking
    )
    assert isinstance(text, str)
    return text


def _encode(tokenizer: Tokenizer, text: str) -> list[int]:
    # The template has written BOS itself where the model wants one.
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def _continued(tokenizer: Tokenizer, told: str, text: str, ids: list[int]) -> list[int]:
    """The ids that follow `ids`, which are those of `told`, when the conversation has come to `text`."""
    if not text.startswith(told):
        at = next(i for i, (a, b) in enumerate(zip(told, text + "\0", strict=False)) if a != b)
        raise FlashError(
            f"the chat template renders a turn differently once another follows: after {told[max(0, at - 40) : at]!r} "
            f"came {told[at : at + 40]!r}, now {text[at : at + 40]!r}. Training would see other tokens than sampling "
            "did; use completions of one turn, without reasoning unless thinking is on, or a template that keeps "
            "what it has rendered"
        )
    whole = _encode(tokenizer, text)
    if whole[: len(ids)] == ids:
        return whole[len(ids) :]
    # A merge across the seam: sampling went on from `ids`, so that is what the rest must be encoded behind.
    return _encode(tokenizer, text[len(told) :])


def _mark(messages: Sequence[Message]) -> str:
    """A text that none of the messages holds."""
    told = str(list(messages))
    return next(mark for n in itertools.count() if (mark := f"[turn-{n}]") not in told)


def _spoken(ids: list[int], ends: frozenset[int]) -> list[int]:
    """[T] 1 up to the last end of turn, 0 on what the template puts behind it."""
    last = max((i for i, id in enumerate(ids) if id in ends), default=None)
    if last is None:
        raise FlashError(
            "the chat template ends an assistant turn with no token that stops sampling, so a model trained on it "
            "would never stop: use a model whose template writes its EOS"
        )
    return [1] * (last + 1) + [0] * (len(ids) - last - 1)


def _end_of_turn_ids(tokenizer: Tokenizer) -> frozenset[int]:
    """EOS, and the special token that the template puts behind what an assistant says."""
    ends = set() if tokenizer.eos_token_id is None else {int(tokenizer.eos_token_id)}
    said = "ok"
    turns = [{"role": "user", "content": said}, {"role": "assistant", "content": said}]
    behind = _encode(tokenizer, _render(tokenizer, turns, False, header=False).rpartition(said)[2])
    if behind and behind[0] in tokenizer.added_tokens_decoder:
        ends.add(behind[0])
    return frozenset(ends)
