"""Qwen2, Qwen3 and Llama models by hand: the same arithmetic as transformers' modules in a third of the operations.

Projections that read the same input run as one product; a group's prompt is computed, kept and read once for all its
rows, in a cache beside that of what they say themselves; rows of several adapters share a batch.

Tried in `bench.engine`, one adapter, against what stood here before: prompts kept once and packed weights (`linear`)
together 1.07 on `tiny` and 1.5 on `smollm2-135m`, three quarters of whose time are now the products of its weights.
Left out: merging an adapter into a copy (1.17 and 1.07, for a second model in memory), `torch.compile` of all that is
no product (1.0, after a minute of compiling), norms by `layer_norm` or a dot product (1.0).

Legend: M tokens fed, N rows, P prompts, W their width, H query heads, K key heads, D width of a head, T positions,
V vocabulary, R ranks of the adapters of one product together.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - as everybody calls it
from torch import Tensor

from services.rollout.engines import Adapter, GenerationFailed
from services.rollout.engines.cache import SlotCache, arrangement, padded
from services.rollout.engines.linear import Linear
from services.rollout.engines.lora import Pair, check_fits, read_lora
from services.rollout.engines.rows import Load, Row
from services.rollout.engines.sharing import Sharing

PARTS = {
    "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "out": ("self_attn.o_proj",),
    "up": ("mlp.gate_proj", "mlp.up_proj"),
    "down": ("mlp.down_proj",),
}
"""Which linear layers run as one product."""

PREFILL_TOKENS = 2048
"""How many prompt tokens, padding included, go through the model at once: bounds memory and the wait of other rows."""

Part = tuple[int, str]
"""A layer and one of PARTS."""
Lora = Mapping[Part, Pair]
Prompt = tuple[tuple[str, tuple[int, ...]], list[Row]]
"""An adapter and what it is to continue, and the rows that do."""
Span = tuple[int, int, Lora]
"""From one token to before another: these need an adapter besides."""
Attend = Callable[[int, Tensor], Tensor]
"""Layer and heads [M, H + 2K, D] -> [M, H * D]."""


def is_fusible(config: Any) -> bool:
    """Is this one of the models whose arithmetic stands here?"""
    return (
        config.model_type in ("llama", "qwen2", "qwen3")
        and config.hidden_act == "silu"
        and set(getattr(config, "layer_types", None) or ["full_attention"]) == {"full_attention"}
        and config.rope_parameters["rope_type"] in ("default", "linear", "llama3")
    )


class FusedDecoder:
    """The rows being drawn, and the model that continues them."""

    def __init__(self, model: Any) -> None:
        """Takes the model's weights over; the model is of no use afterwards."""
        config = model.config
        self.rows: list[Row] = []
        self._H: int = config.num_attention_heads
        self._K: int = config.num_key_value_heads
        self._D: int = getattr(config, "head_dim", None) or config.hidden_size // self._H
        self._eps: float = config.rms_norm_eps
        self._embedding_VX: Tensor = model.get_input_embeddings().weight.data
        self._head = Linear(model.get_output_embeddings().weight.data)
        self._norm_X: Tensor = model.model.norm.weight.data
        self._rotary = model.model.rotary_emb
        self._norms: list[tuple[Tensor, Tensor, Tensor | None]] = []
        self._linears: dict[Part, Linear] = {}
        for i, layer in enumerate(model.model.layers):
            self._norms.append(
                (layer.input_layernorm.weight.data, layer.post_attention_layernorm.weight.data, self._qk_norm(layer))
            )
            for part, names in PARTS.items():
                linears: list[Any] = [layer.get_submodule(name) for name in names]
                weights = [linear.weight.data for linear in linears]
                bias = None if linears[0].bias is None else torch.cat([each.bias.data for each in linears])
                self._linears[i, part] = Linear(weights[0] if len(weights) == 1 else torch.cat(weights), bias)
                for linear in linears:
                    linear.weight = None  # two copies of the model need not fit into memory
        device, dtype = self._embedding_VX.device, self._embedding_VX.dtype
        self._cos_TD = self._sin_TD = torch.empty(0, self._D, device=device, dtype=dtype)
        self._given, self._said = (SlotCache(len(self._norms), self._K, self._D, device, dtype) for _ in range(2))
        """Of the prompts, each kept once, and of what the rows have drawn."""
        self._sharing = Sharing(self._K, device)

    @property
    def token_bytes(self) -> int:
        """What one token of one row takes in the cache."""
        return len(self._norms) * 2 * self._K * self._D * self._embedding_VX.element_size()

    def lora(self, adapter: Adapter) -> Lora:
        """An adapter as the products want it: `a` of all their layers below each other, `b` on a block diagonal."""
        pairs = read_lora(adapter, self._embedding_VX.device, self._embedding_VX.dtype)
        fused: dict[Part, Pair] = {}
        for i in range(len(self._norms)):
            for part, names in PARTS.items():
                found = [pairs.pop(f"model.layers.{i}.{name}", None) for name in names]
                if any(found):
                    fused[i, part] = self._stacked(found, self._linears[i, part].shape_only, part)
        if pairs:
            raise GenerationFailed(f"adapter {adapter.digest[:12]} changes {min(pairs)}, which this engine keeps fixed")
        return fused

    def add(self, rows: Sequence[Row]) -> Tensor:
        """Take rows in, with all they have said so far. Gives the logits of their next tokens, [len(rows), V]."""
        of_prompt: dict[tuple[str, tuple[int, ...]], list[Row]] = {}
        for row in rows:
            of_prompt.setdefault((row.adapter, row.all_ids), []).append(row)
        logits: dict[Row, Tensor] = {}
        for batch in _batches(sorted(of_prompt.items(), key=lambda item: (item[0][0], len(item[0][1])))):
            for (_, group), logits_V in zip(batch, self._prefill(batch), strict=True):
                logits |= dict.fromkeys(group, logits_V)
        self._settle(range(len(self.rows)))
        return torch.stack([logits[row] for row in rows])

    def step(self) -> Tensor:
        """Feed the newest token of every row. Gives the logits of the next, [N, V], in the order of `rows`."""
        N, K, H, D = len(self.rows), self._K, self._H, self._D
        device = self._embedding_VX.device
        id_N = torch.tensor([row.ids[-1] for row in self.rows], device=device)
        position_N = torch.tensor([row.length - 1 for row in self.rows], device=device)
        newest_N = torch.tensor([len(row.ids) - 1 for row in self.rows], device=device)
        T = max(len(row.ids) for row in self.rows)
        self._make_room()
        slot_N = torch.arange(N, device=device)
        own_NK1T = self._unseen(newest_N, T).repeat_interleave(K, 0)[:, None]
        sharing, scale = self._sharing, D**-0.5
        P, W = len(sharing.lengths), max(sharing.lengths.values())
        last_P = torch.tensor([length - 1 for length in sharing.lengths.values()], device=device)
        given_PK1W = self._unseen(last_P, W).repeat_interleave(K, 0)[:, None]

        def attend(i: int, heads: Tensor) -> Tensor:
            said, given = self._said.layers[i], self._given.layers[i]
            said[:, slot_N, :, newest_N] = heads[:, H:].view(N, 2, K, D)
            own_keys, own_values = said[:, :N].flatten(1, 2)[:, :, :T]
            keys, values = given[:, :P].flatten(1, 2)[:, :, :W]
            query = heads[:, :H].reshape(N * K, H // K, D)
            # Batched products, one of a row with what it said and one of all rows of a prompt with the prompt: faster
            # than the fused kernel, which would read the prompt anew for each row.
            of_own = torch.baddbmm(own_NK1T, query, own_keys.transpose(1, 2), alpha=scale)
            of_given = torch.baddbmm(given_PK1W, sharing.by_prompt(query), keys.transpose(1, 2), alpha=scale)
            weight = torch.cat([sharing.by_row(of_given), of_own], -1).softmax(-1)
            seen = sharing.by_row(sharing.by_prompt(weight[..., :W]) @ values)
            return torch.baddbmm(seen, weight[..., W:], own_values).view(N, H * D)

        return self._logits(self._forward(id_N, position_N, self.rows, 1, attend))

    def drop(self, rows: Sequence[Row]) -> None:
        gone = set(rows)
        self._settle([slot for slot, row in enumerate(self.rows) if row not in gone])

    def wipe(self) -> None:
        """Forget what dropped rows have left behind: numbers that are not finite would spread."""
        load = Load.of(self.rows)
        self._given.wipe(len(load.prompts), load.longest_prompt)
        self._said.wipe(load.rows, load.longest_said)

    def sleep(self) -> None:
        """Keep no cache; the weights wait in the machine's memory."""
        for cache in (self._given, self._said):
            cache.fit(0, 0)
        if self._given.device.type != "cpu":
            self._move(Tensor.cpu)
            torch.cuda.empty_cache()

    def wake(self) -> None:
        if self._given.device.type != "cpu":
            self._move(lambda tensor: tensor.to(self._given.device))

    def held_tokens(self, load: Load, more: int = 0) -> int:
        said = padded(load.longest_said + more)
        return len(load.prompts) * padded(load.longest_prompt) + load.rows * said

    def weights(self) -> Iterator[Tensor]:
        yield from (self._embedding_VX, self._norm_X, *self._head.tensors)
        for norms in self._norms:
            yield from (norm for norm in norms if norm is not None)
        for linear in self._linears.values():
            yield from linear.tensors

    def _move(self, put: Callable[[Tensor], Tensor]) -> None:
        """All that is no cache. Weights that are one, as embedding and head may be, stay one."""
        moved: dict[int, Tensor] = {}
        for tensor in self.weights():
            tensor.data = moved.setdefault(tensor.data_ptr(), put(tensor.data))
        self._rotary._apply(put)
        self._cos_TD = self._sin_TD = self._embedding_VX.new_empty(0, self._D)

    def _settle(self, slots: Sequence[int]) -> None:
        """Keep the rows in these slots, those of one adapter together, and their prompts."""
        order = arrangement(slots, [self.rows[slot].adapter for slot in slots])
        self._said.arrange(order, max((len(self.rows[slot].ids) for slot in order), default=0))
        self.rows = [self.rows[slot] for slot in order]
        self._given.arrange(self._sharing.keep(self.rows), max(self._sharing.lengths.values(), default=0))

    def _make_room(self) -> None:
        """Both caches as large as their rows want them, and while one grows the other no larger."""
        lengths = self._sharing.lengths.values()
        given = self._given, len(lengths), padded(max(lengths))
        said = self._said, len(self.rows), padded(max(len(row.ids) for row in self.rows))
        wanted = sorted((given, said), key=lambda each: not each[0].holds(*each[1:]))
        if not all(cache.holds(slots, positions) for cache, slots, positions in wanted):
            for cache, slots, positions in wanted:
                cache.fit(slots, positions)

    def _unseen(self, last_N: Tensor, width: int) -> Tensor:
        """[N, width] minus infinity behind each last position, 0 up to it."""
        unseen = torch.arange(width, device=last_N.device) > last_N[:, None]
        return self._embedding_VX.new_zeros(unseen.shape).masked_fill_(unseen, float("-inf"))

    def _prefill(self, batch: Sequence[Prompt]) -> Tensor:
        """Prompts through the model, padded at the end, into the caches. Gives [P, V]."""
        prompts = [ids for (_, ids), _ in batch]
        P, W, K, H, D = len(prompts), max(map(len, prompts)), self._K, self._H, self._D
        device = self._embedding_VX.device
        id_M = torch.tensor([id for ids in prompts for id in (*ids, *[0] * (W - len(ids)))], device=device)
        position_M = torch.arange(W, device=device).repeat(P)
        owners = [(p, row) for p, (_, group) in enumerate(batch) for row in group]
        # Rows that had to give way have said something already.
        said = [(p, slot, row) for slot, (p, row) in enumerate(owners, len(self.rows)) if row.ids]
        self.rows += [row for _, row in owners]
        slot_P = torch.tensor([self._sharing.take_in(group[0]) for _, group in batch], device=device)
        self._make_room()
        given = max(len(group[0].job.request.prompt_ids) for _, group in batch)

        def attend(i: int, heads: Tensor) -> Tensor:
            heads = heads.view(P, W, -1, D).transpose(1, 2)
            query, keys, values = heads[:, :H], heads[:, H : H + K], heads[:, H + K :]
            fresh = heads[:, H:].view(P, 2, K, W, D).transpose(0, 1)
            self._given.layers[i][:, slot_P, :, :given] = fresh[:, :, :, :given]
            for p, slot, row in said:
                start, end = row.length - len(row.ids), row.length
                self._said.layers[i][:, slot, :, : len(row.ids)] = fresh[:, p, :, start:end]
            # What pads a prompt stands behind it, so that being causal is all the mask it needs.
            seen = F.scaled_dot_product_attention(query, keys, values, is_causal=True, enable_gqa=True)
            return seen.transpose(1, 2).reshape(P * W, H * D)

        x = self._forward(id_M, position_M, [group[0] for _, group in batch], W, attend)
        last_P = torch.tensor([p * W + len(ids) - 1 for p, ids in enumerate(prompts)], device=device)
        return self._logits(x[last_P])

    def _forward(self, id_M: Tensor, position_M: Tensor, rows: Sequence[Row], width: int, attend: Attend) -> Tensor:
        """`rows` own `width` tokens each. Gives the last hidden states, [M, X]."""
        spans = _spans(rows, width)
        self._extend_rotary(max(row.length for row in rows))
        cos, sin = self._cos_TD[position_M, None], self._sin_TD[position_M, None, : self._D // 2]
        x = self._embedding_VX[id_M]
        for i, (before, between, qk_norm) in enumerate(self._norms):
            heads = self._product((i, "qkv"), self._norm(x, before), spans)
            seen = attend(i, self._rotated(heads.view(len(x), -1, self._D), qk_norm, cos, sin))
            x += self._product((i, "out"), seen, spans)
            gate, up = self._product((i, "up"), self._norm(x, between), spans).chunk(2, -1)
            x += self._product((i, "down"), F.silu(gate).mul_(up), spans)
        return x

    def _product(self, part: Part, x: Tensor, spans: Sequence[Span]) -> Tensor:
        y = self._linears[part](x)
        for start, end, lora in spans:
            if part in lora:
                a, b = lora[part]
                y[start:end].addmm_(x[start:end] @ a.T, b.T)
        return y

    def _rotated(self, heads: Tensor, qk_norm: Tensor | None, cos: Tensor, sin: Tensor) -> Tensor:
        """Queries and keys turned by their position, in place; the values among `heads` stay."""
        turned, half = heads[:, : self._H + self._K], self._D // 2
        straight = turned.clone() if qk_norm is None else self._norm(turned, None).mul_(qk_norm)
        torch.mul(straight, cos, out=turned)
        turned[..., :half].addcmul_(straight[..., half:], sin, value=-1)
        turned[..., half:].addcmul_(straight[..., :half], sin)
        return heads

    def _norm(self, x: Tensor, weight: Tensor | None) -> Tensor:
        return F.rms_norm(x, (x.shape[-1],), weight, self._eps)

    def _logits(self, x: Tensor) -> Tensor:
        return self._head(self._norm(x, self._norm_X)).float()

    def _stacked(self, found: Sequence[Pair | None], base: Tensor, part: str) -> Pair:
        H, K, D = self._H, self._K, self._D
        sizes = [H * D, K * D, K * D] if part == "qkv" else [len(base) // len(found)] * len(found)
        b = self._embedding_VX.new_zeros(len(base), sum(len(pair.a) for pair in found if pair))
        row = column = 0
        for size, pair in zip(sizes, found, strict=True):
            if pair:
                check_fits(part, pair, base[row : row + size])
                b[row : row + size, column : column + len(pair.a)] = pair.b
                column += len(pair.a)
            row += size
        return Pair(torch.cat([pair.a for pair in found if pair]), b)

    def _qk_norm(self, layer: Any) -> Tensor | None:
        """[H + K, D] for models that norm queries and keys."""
        if not hasattr(layer.self_attn, "q_norm"):
            return None
        query, key = layer.self_attn.q_norm.weight.data, layer.self_attn.k_norm.weight.data
        return torch.cat([query.expand(self._H, -1), key.expand(self._K, -1)])

    def _extend_rotary(self, length: int) -> None:
        if length > len(self._cos_TD):
            position_1T = torch.arange(2 * length, device=self._embedding_VX.device)[None]
            cos, sin = self._rotary(self._embedding_VX, position_1T)
            self._cos_TD, self._sin_TD = cos[0], sin[0]


def _spans(rows: Sequence[Row], width: int) -> list[Span]:
    """Which of the tokens, `width` a row, need which adapter. Rows of one adapter stand together."""
    spans: list[Span] = []
    start = 0
    for _, same in groupby(rows, key=lambda row: row.adapter):
        lora, *more = [row.lora for row in same]
        end = start + (1 + len(more)) * width
        spans += [(start, end, lora)] if lora else []
        start = end
    return spans


def _batches(prompts: Sequence[Prompt]) -> list[list[Prompt]]:
    """Neighbours together, as long as their padded width stays within PREFILL_TOKENS."""
    batches: list[list[Prompt]] = []
    width = 0
    for item in prompts:
        width = max(width, len(item[0][1]))
        if not batches or (len(batches[-1]) + 1) * width > PREFILL_TOKENS:
            batches.append([])
            width = len(item[0][1])
        batches[-1].append(item)
    return batches
