"""Which rows continue which prompt, so that what all of them ask of a prompt is one product.

Legend: N rows, P prompts, S the most rows that one prompt has, K key heads, Q queries of a key head, C any width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from services.rollout.engines.cache import arrangement
from services.rollout.engines.rows import Row


class Sharing:
    """The prompts in their slots, and the way from rows to prompts and back."""

    def __init__(self, key_heads: int, device: torch.device) -> None:
        self.lengths: dict[str, int] = {}
        """Of each prompt (see `Job.prompt`), in the order of their slots."""
        self._key_heads = key_heads
        self._device = device
        self.keep([])

    def take_in(self, row: Row) -> int:
        """The slot of this row's prompt: a new one at the end where nobody has brought it yet."""
        self.lengths.setdefault(row.job.prompt, len(row.job.request.prompt_ids))
        return list(self.lengths).index(row.job.prompt)

    def keep(self, rows: Sequence[Row]) -> list[int]:
        """These are the rows now. Prompts that have none are forgotten; gives for each new slot the old one."""
        owned = {row.job.prompt for row in rows}
        names = list(self.lengths)
        order = arrangement([slot for slot, name in enumerate(names) if name in owned], [""] * len(owned))
        self.lengths = {names[slot]: self.lengths[names[slot]] for slot in order}
        self._pair_up(rows)
        return order

    def by_prompt(self, x: Tensor) -> Tensor:
        """[N * K, Q, C] of the rows to [P * K, S * Q, C]; what prompts with fewer rows get besides means nothing."""
        return x.index_select(0, self._row).view(len(self.lengths) * self._key_heads, -1, x.shape[-1])

    def by_row(self, x: Tensor) -> Tensor:
        """And back again."""
        return x.view(len(self._row), -1, x.shape[-1]).index_select(0, self._place)

    def _pair_up(self, rows: Sequence[Row]) -> None:
        members: dict[str, list[int]] = {name: [] for name in self.lengths}
        for n, row in enumerate(rows):
            members[row.job.prompt].append(n)
        S, K = max(map(len, members.values()), default=0), self._key_heads
        row_PS = torch.tensor([each + [each[0]] * (S - len(each)) for each in members.values()]).view(-1, S or 1)
        place_N = torch.empty(len(rows), dtype=torch.long)
        for p, each in enumerate(members.values()):
            place_N[each] = torch.arange(len(each)) + p * K * S
        head_K = torch.arange(K)
        self._row = (row_PS[:, None] * K + head_K[:, None]).flatten().long().to(self._device)
        """[P * K * S] whose query each place of a prompt has."""
        self._place = (place_N[:, None] + head_K * S).flatten().to(self._device)
        """[N * K]"""
