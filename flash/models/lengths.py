"""How long rows are for a model, and what its limits leave of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING, Any

from flash.contracts.preparing import RowLengths
from flash.contracts.spec import RunSpec
from flash.contracts.values import Example
from flash.errors import FlashError, Refused
from flash.models.catalogue import card
from flash.models.rendering import prompt_ids, sft_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase as Tokenizer
else:
    Tokenizer = Any


@dataclass(frozen=True)
class Lengths:
    """What the rows of a run add up to."""

    rows: int
    p50: int
    p95: int
    longest: int
    mean: float
    limit: int
    """What a sequence may have, less what GRPO keeps free for an answer."""
    cut: int
    """Rows over the limit that something is left of: SFT loses the end of the target, GRPO has less room to answer."""
    dropped: int
    """Rows that the run can learn nothing from."""


def measured(tokenizer: Tokenizer, examples: Sequence[Example], spec: RunSpec) -> RowLengths:
    """[rows] tokens of each. Raises Refused, naming the row, for one that the model's chat template cannot show."""
    tokens: list[int] = []
    unusable: list[int] = []
    longest = sequence_limit(spec)
    for example in examples:
        try:
            length, is_usable = _measured(tokenizer, example, spec, longest)
        except FlashError as error:
            raise Refused(f"row {example.id} cannot be shown to {spec.model}: {error}") from error
        tokens.append(length)
        if not is_usable:
            unusable.append(example.index)
    return RowLengths(tokens=tokens, unusable=unusable)


def summed(tokens: Sequence[int], *, dropped: int, spec: RunSpec) -> Lengths:
    """The figures over all rows; there is at least one."""
    ordered = sorted(tokens)
    limit = sequence_limit(spec) - (spec.sampling.max_tokens if spec.sampling else 0)
    return Lengths(
        rows=len(ordered),
        p50=_percentile(ordered, 0.50),
        p95=_percentile(ordered, 0.95),
        longest=ordered[-1],
        mean=sum(ordered) / len(ordered),
        limit=limit,
        cut=sum(length > limit for length in ordered) - dropped,
        dropped=dropped,
    )


def sequence_limit(spec: RunSpec) -> int:
    """Tokens a sequence of this run may have, prompt included."""
    context = card(spec.model).context
    return min(spec.train.max_length, context) if spec.train else context


def _measured(tokenizer: Tokenizer, example: Example, spec: RunSpec, longest: int) -> tuple[int, bool]:
    if spec.algorithm != "sft":
        length = len(prompt_ids(tokenizer, example.messages, thinking=spec.thinking))
        return length, length < longest
    ids, mask = sft_ids(tokenizer, example.messages, example.completion or [], thinking=spec.thinking)
    return len(ids), any(mask[1:longest])  # nothing predicts the first token


def _percentile(ordered: Sequence[int], share: float) -> int:
    """The smallest value that so many of the values do not exceed."""
    return ordered[max(0, ceil(share * len(ordered)) - 1)]
