"""From prompts and answers to rows of tokens, and from rows to micro-batches. Pure.

Two layouts give the same numbers:

    shared   [prompt, answer 1, answer 2, ...], [next prompt, ...]   under a 4-D mask; each prompt is computed once
    padded   [prompt, answer 1, ---], [prompt, answer 2, -----]      any architecture; rows of like length together

Legend: B rows, W tokens of the longest, N answer tokens of a micro-batch, in the order of their rows.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from services.learner.batch import Answer, Tree


@dataclass(frozen=True)
class MicroBatch:
    """One pass through the model."""

    ids_BW: Tensor
    positions_BW: Tensor
    """They restart behind each prompt."""
    real_BW: Tensor
    """False on padding."""
    sees_BWW: Tensor | None
    """Whether a token (row of the matrix) sees another (column); None in the padded layout: all before it."""
    row_N: Tensor
    column_N: Tensor
    """Where an answer token is predicted: at the token before it, or at the prompt's last."""
    target_N: Tensor
    """The answer token."""
    sequence_N: Tensor
    """Which of the step's answers it belongs to."""
    logp_sampler_N: Tensor
    advantage_N: Tensor


@dataclass(frozen=True)
class Part:
    """A prompt with some of its answers; what stays together in a row."""

    prompt_ids: Sequence[int]
    answers: tuple[tuple[int, Answer], ...]
    """With the number of each among the step's answers."""

    @property
    def width(self) -> int:
        # An answer's last token is predicted, but predicts nothing: it need not pass through the model.
        return len(self.prompt_ids) + sum(len(answer.ids_T) - 1 for _, answer in self.answers)


Row = tuple[Part, ...]


def micro_batches(trees: Sequence[Tree], *, max_tokens: int, share: bool) -> list[MicroBatch]:
    """The step cut into passes of at most `max_tokens` tokens, padding counted; an answer longer than that goes alone.

    The same trees, limit and layout always give the same cut: sums in floating point depend on their order.
    """
    parts = list(_numbered(trees, max_tokens if share else 0))
    rows = _fill(parts) if share else [(part,) for part in parts]
    rows.sort(key=_width, reverse=True)
    return [_lay_out(rows[begin:end], share) for begin, end in _cut([_width(row) for row in rows], max_tokens)]


def _numbered(trees: Sequence[Tree], max_tokens: int) -> Iterator[Part]:
    """Each tree as the fewest parts of at most `max_tokens`, one answer at least."""
    number = 0
    for tree in trees:
        held: list[tuple[int, Answer]] = []
        for answer in tree.answers:
            grown = Part(tree.prompt_ids, (*held, (number, answer)))
            if held and grown.width > max_tokens:
                yield Part(tree.prompt_ids, tuple(held))
                held = []
            held.append((number, answer))
            number += 1
        if held:
            yield Part(tree.prompt_ids, tuple(held))


def _fill(parts: Sequence[Part]) -> list[Row]:
    """Parts put into rows as long as the longest part, first fit, longest first: packing instead of padding."""
    width = max((part.width for part in parts), default=0)
    rows: list[list[Part]] = []
    room: list[int] = []
    for part in sorted(parts, key=lambda part: -part.width):
        at = next((i for i, left in enumerate(room) if part.width <= left), None)
        if at is None:
            rows.append([part])
            room.append(width - part.width)
        else:
            rows[at].append(part)
            room[at] -= part.width
    return [tuple(row) for row in rows]


def _cut(widths: Sequence[int], max_tokens: int) -> Iterator[tuple[int, int]]:
    """Runs of rows whose number times the width of the first, their longest, stays within `max_tokens`."""
    begin = 0
    while begin < len(widths):
        end = min(len(widths), begin + max(1, max_tokens // widths[begin]))
        yield begin, end
        begin = end


def _width(row: Row) -> int:
    return sum(part.width for part in row)


def _lay_out(rows: Sequence[Row], share: bool) -> MicroBatch:
    width = max(_width(row) for row in rows)
    drafts = [_draft(row) for row in rows]
    tree_BW = torch.tensor([draft.tree + [-1] * (width - len(draft.tree)) for draft in drafts])
    positions_BW = torch.tensor([draft.positions + list(range(width - len(draft.positions))) for draft in drafts])
    answer_BW = torch.tensor([draft.answer + [-1] * (width - len(draft.answer)) for draft in drafts])
    at = [(b, *target) for b, draft in enumerate(drafts) for target in draft.targets]
    row, column, target, sequence, logp, advantage = zip(*at, strict=True)
    return MicroBatch(
        ids_BW=torch.tensor([draft.ids + [0] * (width - len(draft.ids)) for draft in drafts]),
        positions_BW=positions_BW,
        real_BW=tree_BW >= 0,
        sees_BWW=_sees(tree_BW, answer_BW, positions_BW) if share else None,
        row_N=torch.tensor(row),
        column_N=torch.tensor(column),
        target_N=torch.tensor(target),
        sequence_N=torch.tensor(sequence),
        logp_sampler_N=torch.tensor(logp, dtype=torch.float32),
        advantage_N=torch.tensor(advantage, dtype=torch.float32),
    )


def _sees(tree_BW: Tensor, answer_BW: Tensor, positions_BW: Tensor) -> Tensor:
    """A token sees what comes no later in its own answer and in its prompt. Padding sees padding, so that no row of the
    softmax is empty."""
    same_tree = tree_BW[:, :, None] == tree_BW[:, None, :]
    visible = (answer_BW[:, None, :] == -1) | (answer_BW[:, :, None] == answer_BW[:, None, :])
    return same_tree & visible & (positions_BW[:, None, :] <= positions_BW[:, :, None])


@dataclass
class _Draft:
    """A row while it is written."""

    ids: list[int]
    positions: list[int]
    tree: list[int]
    answer: list[int]
    """-1 on the prompt."""
    targets: list[tuple[int, int, int, float, float]]
    """Column, token, sequence, the sampler's logprob, advantage."""


def _draft(row: Row) -> _Draft:
    draft = _Draft([], [], [], [], [])
    for tree, part in enumerate(row):
        _write(draft, tree, -1, 0, part.prompt_ids)
        prompt_end = len(draft.ids) - 1
        for number, answer in part.answers:
            begin = len(draft.ids)
            logp_T = answer.logp_sampler_T or [0.0] * len(answer.ids_T)
            for t, (token, counts, logp) in enumerate(zip(answer.ids_T, answer.mask_T, logp_T, strict=True)):
                if counts:
                    column = begin + t - 1 if t else prompt_end
                    draft.targets.append((column, token, number, logp, answer.advantage))
            _write(draft, tree, number, len(part.prompt_ids), answer.ids_T[:-1])
    return draft


def _write(draft: _Draft, tree: int, answer: int, position: int, ids: Sequence[int]) -> None:
    draft.ids.extend(ids)
    draft.positions.extend(range(position, position + len(ids)))
    draft.tree.extend([tree] * len(ids))
    draft.answer.extend([answer] * len(ids))
