"""A plugin of vLLM: LoRA on the CPU, right and fast. On a GPU vLLM has kernels, and this does nothing.

vLLM's own operations there copy both matrices of an adapter, padded to the largest rank, for every token, and have the
base model's tokens (slot -1) changed by whatever adapter lies in the last slot. Here the tokens of an adapter are one
product, of the rank that it has, and the base model's tokens are left alone.

Legend: M tokens, S slots, R the largest rank.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 - as everybody calls it
from torch import Tensor
from vllm.lora.punica_wrapper import punica_cpu
from vllm.platforms import current_platform

Span = tuple[int, Tensor | None]
"""A slot, and which rows are its; None: all of them."""


class Pairs(NamedTuple):
    """What one adapter adds to the layers that vLLM has joined, without the padding: y_i += x a_i^T b_i^T."""

    a: Tensor
    """[sum of the ranks, in]"""
    b: list[Tensor]
    """[out_i, rank_i] each"""


def register() -> None:
    """What vLLM calls in each of its processes: the entry point of group `vllm.general_plugins`."""
    if current_platform.is_cpu():
        punica_cpu.PunicaWrapperCPU = CpuLora


def is_in_use() -> bool:
    return punica_cpu.PunicaWrapperCPU is CpuLora


class CpuLora(punica_cpu.PunicaWrapperCPU):  # type: ignore[misc]
    """Adds to the output of a layer what each token's adapter says."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._tokens: list[Span] = []
        self._samples: list[Span] = []
        """Of the tokens, those whose logits are wanted."""
        self._held: dict[int, tuple[int | None, dict[int, Pairs]]] = {}
        """By slot: whose it is, and by the address of a layer's stacked matrices what it adds there."""

    def update_metadata(self, mapping: Any, lora_index_to_id: Sequence[int | None], *args: Any, **options: Any) -> None:
        super().update_metadata(mapping, lora_index_to_id, *args, **options)
        self._tokens = _spans(self.token_lora_indices)
        self._samples = _spans(self.sampler_indices)
        for slot, owner in enumerate(lora_index_to_id):
            if slot not in self._held or self._held[slot][0] != owner:
                self._held[slot] = owner, {}

    def add_lora_linear(
        self, y: Tensor, x: Tensor, lora_a_stacked: tuple[Tensor, ...], lora_b_stacked: tuple[Tensor, ...],
        scale: float, output_slices: tuple[int, ...], **_: Any,
    ) -> None:  # fmt: skip
        """y += scale * x a^T b^T. `a` are [S, 1, R, in], `b` [S, 1, out, R]."""
        self._add(self._tokens, y, x, lora_a_stacked, lora_b_stacked, scale)

    def add_lora_logits(
        self, y: Tensor, x: Tensor, lora_a_stacked: Tensor, lora_b_stacked: Tensor, scale: float, **_: Any
    ) -> None:
        self._add(self._samples, y, x, (lora_a_stacked,), (lora_b_stacked,), scale)

    def add_lora_embedding(self, y: Tensor, x: Tensor, lora_b_stacked: Tensor, **_: Any) -> None:
        """y += x b^T. `x` is [M, R]: what the tokens' rows of `a` hold."""
        for slot, rows in self._tokens:
            if slot < 0:
                continue
            held, place = self._held[slot][1], lora_b_stacked.data_ptr()
            if place not in held:
                b = _matrix(lora_b_stacked, slot)
                held[place] = Pairs(b[:0], [b[:, : _rank(b.T)]])
            b = held[place].b[0]
            if b.shape[1]:
                said = F.linear((x if rows is None else x[rows])[:, : b.shape[1]], b)
                y.index_add_(0, torch.arange(len(y)) if rows is None else rows, said)

    def _add(
        self, spans: list[Span], y: Tensor, x: Tensor, stacked_a: tuple[Tensor, ...], stacked_b: tuple[Tensor, ...],
        scale: float,
    ) -> None:  # fmt: skip
        for slot, rows in spans:
            if slot < 0:
                continue
            pairs = self._pairs(slot, stacked_a, stacked_b, scale)
            if not len(pairs.a):
                continue
            inner = torch.split(F.linear(x if rows is None else x[rows], pairs.a), [b.shape[1] for b in pairs.b], dim=1)
            if rows is not None:
                y.index_add_(0, rows, torch.cat([F.linear(each, b) for each, b in zip(inner, pairs.b, strict=True)], 1))
                continue
            start = 0
            for each, b in zip(inner, pairs.b, strict=True):
                if b.shape[1]:
                    y[:, start : start + len(b)].addmm_(each, b.T)
                start += len(b)

    def _pairs(self, slot: int, stacked_a: tuple[Tensor, ...], stacked_b: tuple[Tensor, ...], scale: float) -> Pairs:
        held, place = self._held[slot][1], stacked_a[0].data_ptr()
        if place not in held:
            a = [_matrix(each, slot) for each in stacked_a]
            ranks = [_rank(each) for each in a]
            b = [_matrix(each, slot)[:, :rank] * scale for each, rank in zip(stacked_b, ranks, strict=True)]
            held[place] = Pairs(torch.cat([each[:rank] for each, rank in zip(a, ranks, strict=True)]), b)
        return held[place]


def _spans(slot_M: Tensor) -> list[Span]:
    slots = sorted(set(slot_M.tolist()))
    return [(slot, None if len(slots) == 1 else (slot_M == slot).nonzero()[:, 0]) for slot in slots]


def _matrix(stacked: Tensor, slot: int) -> Tensor:
    matrix = stacked[slot]
    return matrix[0] if matrix.dim() == 3 else matrix


def _rank(a: Tensor) -> int:
    """How many rows there are before the padding of zeros."""
    used = a.any(dim=1).nonzero()
    return int(used[-1]) + 1 if len(used) else 0
