"""Any causal model, through transformers' own modules and cache: slower than `fused`, and at home everywhere.

Rows that join together with one adapter form a cohort, padded on the left, with a cache of its own; cohorts take turns.
Legend: N rows, P prompts, T positions, V vocabulary.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - as everybody calls it
from torch import Tensor, nn

from services.rollout.engines import Adapter, GenerationFailed
from services.rollout.engines.cache import padded
from services.rollout.engines.lora import Pair, check_fits, read_lora
from services.rollout.engines.rows import Load, Row

Lora = Mapping[str, Pair]
"""By the name of the linear layer."""


@dataclass
class Cohort:
    """Rows that share a cache."""

    rows: list[Row]
    cache: Any
    seen_NT: Tensor
    """1 where a token stands, 0 where there is padding."""

    def keep(self, indices: list[int]) -> None:
        index = torch.tensor(indices, device=self.seen_NT.device)
        self.cache.reorder_cache(index)
        self.seen_NT = self.seen_NT[index]


class ModulesDecoder:
    """The rows being drawn, and the model that continues them."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._home = model.device
        self._cohorts: list[Cohort] = []

    @property
    def rows(self) -> list[Row]:
        return [row for cohort in self._cohorts for row in cohort.rows]

    @property
    def token_bytes(self) -> int:
        """What one token of one row takes in the cache; models that remember in other ways take less."""
        config = self._model.config.get_text_config()
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        return int(config.num_hidden_layers * 2 * heads * head_dim * self._model.dtype.itemsize)

    def held_tokens(self, load: Load, more: int = 0) -> int:
        return load.rows * padded(load.longest_prompt + load.longest_said + more)

    def lora(self, adapter: Adapter) -> Lora:
        pairs = read_lora(adapter, self._model.device, self._model.dtype)
        for name, pair in pairs.items():
            try:
                linear = self._model.get_submodule(name)
            except AttributeError:
                linear = None
            if not isinstance(linear, nn.Linear):
                raise GenerationFailed(f"adapter {adapter.digest[:12]} changes {name}, which is no linear layer here")
            check_fits(name, pair, linear.weight)
        return pairs

    def add(self, rows: Sequence[Row]) -> Tensor:
        """Take rows in, with all they have said so far. Gives the logits of their next tokens, [len(rows), V]."""
        logits: dict[Row, Tensor] = {}
        for adapter in dict.fromkeys(row.adapter for row in rows):
            same = [row for row in rows if row.adapter == adapter]
            logits |= zip(same, self._prefill(same), strict=True)
        return torch.stack([logits[row] for row in rows])

    def step(self) -> Tensor:
        """Feed the newest token of every row. Gives the logits of the next, [N, V], in the order of `rows`."""
        return torch.cat([self._advance(cohort) for cohort in self._cohorts])

    def drop(self, rows: Sequence[Row]) -> None:
        gone = set(rows)
        for cohort in self._cohorts:
            kept = [i for i, row in enumerate(cohort.rows) if row not in gone]
            if len(kept) < len(cohort.rows):
                cohort.rows = [cohort.rows[i] for i in kept]
                if kept:
                    cohort.keep(kept)
        self._cohorts = [cohort for cohort in self._cohorts if cohort.rows]

    def wipe(self) -> None:
        """Dropped rows leave nothing behind here."""

    def sleep(self) -> None:
        """No cohort is left; the weights wait in the machine's memory."""
        self._home = self._model.device
        self._model.to("cpu")
        torch.cuda.empty_cache()

    def wake(self) -> None:
        self._model.to(self._home)

    def _prefill(self, rows: list[Row]) -> Tensor:
        from transformers import DynamicCache

        prompts = list(dict.fromkeys(row.all_ids for row in rows))
        width, device = max(map(len, prompts)), self._model.device
        id_PT = torch.tensor([[0] * (width - len(ids)) + list(ids) for ids in prompts], device=device)
        seen_PT = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in prompts], device=device)
        cohort = Cohort(rows, DynamicCache(config=self._model.config), seen_PT)
        logits_PV = self._forward(cohort, id_PT, (seen_PT.cumsum(1) - 1).clamp(min=0))
        place = {ids: p for p, ids in enumerate(prompts)}
        owner = [place[row.all_ids] for row in rows]
        cohort.keep(owner)
        self._cohorts.append(cohort)
        return logits_PV[owner]

    def _advance(self, cohort: Cohort) -> Tensor:
        cohort.seen_NT = F.pad(cohort.seen_NT, (0, 1), value=1)
        device = self._model.device
        id_N1 = torch.tensor([[row.ids[-1]] for row in cohort.rows], device=device)
        position_N1 = torch.tensor([[row.length - 1] for row in cohort.rows], device=device)
        return self._forward(cohort, id_N1, position_N1)

    def _forward(self, cohort: Cohort, ids: Tensor, positions: Tensor) -> Tensor:
        with _applied(self._model, cohort.rows[0].lora):
            logits: Tensor = self._model(
                input_ids=ids,
                position_ids=positions,
                attention_mask=cohort.seen_NT,
                past_key_values=cohort.cache,
                use_cache=True,
                logits_to_keep=1,
            ).logits
        return logits[:, -1].float()


@contextmanager
def _applied(model: nn.Module, lora: Lora | None) -> Iterator[None]:
    """Inside, the model is the one with this adapter; its own weights are never touched."""
    with ExitStack() as hooks:
        for name, pair in (lora or {}).items():
            hooks.callback(model.get_submodule(name).register_forward_hook(_Added(pair)).remove)
        yield


@dataclass(frozen=True)
class _Added:
    pair: Pair

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return output + inputs[0] @ self.pair.a.T @ self.pair.b.T
