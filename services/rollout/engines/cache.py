"""Keys and values of what is being drawn. Who has number n lives in slot n, the token at position p at index p.

Legend: N slots, K key heads, T positions, D width of a head; the 2 are keys and values.
"""

from collections.abc import Sequence

import torch

CHUNK = 64
"""The cache grows by this many positions."""


def padded(num_tokens: int) -> int:
    """`num_tokens`, rounded up to whole chunks."""
    return -(-num_tokens // CHUNK) * CHUNK


class SlotCache:
    """One tensor a layer. Slots are always full from 0 on: who leaves is replaced from behind."""

    def __init__(self, layers: int, heads: int, head_dim: int, device: torch.device, dtype: torch.dtype) -> None:
        # Zeros and never `empty`: attention weighs what lies past a row's end by 0, and 0 times NaN is NaN.
        self.layers = [torch.zeros(2, 0, heads, 0, head_dim, device=device, dtype=dtype) for _ in range(layers)]
        """[2, N, K, T, D] each."""

    @property
    def device(self) -> torch.device:
        return self.layers[0].device

    def holds(self, slots: int, positions: int) -> bool:
        """Is there room for so many?"""
        _, N, _, T, _ = self.layers[0].shape
        return slots <= N and positions <= T

    def fit(self, slots: int, positions: int) -> None:
        """Room for exactly so many; what lies there stays."""
        _, N, K, T, D = self.layers[0].shape
        if (slots, positions) == (N, T):
            return
        n, t = min(slots, N), min(positions, T)
        for i, old in enumerate(self.layers):  # one layer after the other: never two whole caches at once
            self.layers[i] = old.new_zeros(2, slots, K, positions, D)
            self.layers[i][:, :n, :, :t] = old[:, :n, :, :t]

    def arrange(self, order: Sequence[int], positions: int) -> None:
        """Slot n takes what lay in slot `order[n]`, up to `positions`."""
        moved = [(new, old) for new, old in enumerate(order) if new != old]
        if not moved:
            return
        new, old = torch.tensor(moved, device=self.layers[0].device).T
        for layer in self.layers:
            layer[:, new, :, :positions] = layer[:, old, :, :positions]

    def wipe(self, slots: int, positions: int) -> None:
        """Forget what lies beyond so many slots, and beyond so many positions."""
        for layer in self.layers:
            layer[:, slots:] = 0
            layer[:, :, :, positions:] = 0


def arrangement(slots: Sequence[int], kinds: Sequence[str]) -> list[int]:
    """An order of the slots in which equal kinds stand together and as few as possible change their place.

    `slots[i]`, ascending, holds a row of `kinds[i]`. Gives for each new slot the old one.
    """
    of_kind: dict[str, list[int]] = {}
    for slot, kind in zip(slots, kinds, strict=True):
        of_kind.setdefault(kind, []).append(slot)
    order: list[int] = []
    for members in of_kind.values():
        first, end = len(order), len(order) + len(members)
        staying = {slot for slot in members if first <= slot < end}
        coming = iter([slot for slot in members if slot not in staying])
        order += [slot if slot in staying else next(coming) for slot in range(first, end)]
    return order
