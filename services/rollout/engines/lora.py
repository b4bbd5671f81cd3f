"""LoRA adapters as PEFT writes them: one pair of matrices for each linear layer that was trained."""

import json
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from services.rollout.engines import Adapter, GenerationFailed

_PREFIX = "base_model.model."
_UNKNOWN = ("rank_pattern", "alpha_pattern", "modules_to_save", "use_dora", "fan_in_fan_out")
"""What PEFT can do beside plain LoRA; Flash's learner uses none of it."""


class Pair(NamedTuple):
    """y = x W^T + x a^T b^T."""

    a: Tensor
    """[r, in]"""
    b: Tensor
    """[out, r], alpha / r included."""


def read_lora(adapter: Adapter, device: torch.device, dtype: torch.dtype) -> dict[str, Pair]:
    """The pairs by the name of the linear layer, e.g. `model.layers.0.self_attn.q_proj`.

    Raises GenerationFailed for an adapter that is not plain LoRA or holds numbers that are not finite.
    """
    scale = _scale(adapter)
    tensors = _tensors(adapter.folder / "adapter_model.safetensors", adapter.digest)
    names = {key.removeprefix(_PREFIX).rpartition(".lora_")[0] for key in tensors}
    expected = {f"{_PREFIX}{name}.lora_{side}.weight" for name in names for side in "AB"}
    if expected != tensors.keys():
        odd = min(expected ^ tensors.keys())
        raise GenerationFailed(f"adapter {adapter.digest[:12]} is no set of LoRA pairs: {odd} is missing or strange")

    def pair(name: str) -> Pair:
        a, b = (tensors[f"{_PREFIX}{name}.lora_{side}.weight"].to(device, dtype) for side in "AB")
        if not (a.isfinite().all() and b.isfinite().all()):
            raise GenerationFailed(f"adapter {adapter.digest[:12]} holds numbers that are not finite in {name}")
        return Pair(a, b * scale)

    return {name: pair(name) for name in sorted(names)}


def check_fits(name: str, pair: Pair, weight: Tensor) -> None:
    """Raises GenerationFailed when the pair cannot be added to this weight, [out, in]."""
    if (len(pair.b), pair.a.shape[1]) != tuple(weight.shape) or pair.b.shape[1] != len(pair.a):
        raise GenerationFailed(
            f"an adapter holds {tuple(pair.b.shape)} x {tuple(pair.a.shape)} for {name}, which is "
            f"{tuple(weight.shape)}: it was trained on another base model"
        )


def _scale(adapter: Adapter) -> float:
    try:
        config = json.loads((adapter.folder / "adapter_config.json").read_bytes())
        rank, alpha = float(config["r"]), float(config["lora_alpha"])
    except (ValueError, KeyError, TypeError) as error:
        raise GenerationFailed(f"adapter {adapter.digest[:12]} has no usable adapter_config.json: {error!r}") from error
    if strange := [key for key in _UNKNOWN if config.get(key)]:
        raise GenerationFailed(
            f"adapter {adapter.digest[:12]} uses {', '.join(strange)}: only plain LoRA can be sampled"
        )
    return alpha / (rank**0.5 if config.get("use_rslora") else rank)


def _tensors(path: Path, digest: str) -> dict[str, Tensor]:
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except SafetensorError as error:
        raise GenerationFailed(f"adapter {digest[:12]} cannot be read: {error}") from error
    return tensors


T = TypeVar("T", bound=Mapping[Any, tuple[Tensor, Tensor]])


class Shelf(Generic[T]):
    """Adapters in memory, the least recently used put away when they pass the budget. Rows keep what they use."""

    def __init__(self, read: Callable[[Adapter], T], budget_bytes: int) -> None:
        self._read = read
        self._budget_bytes = budget_bytes
        self._held: OrderedDict[str, T] = OrderedDict()

    def get(self, adapter: Adapter) -> T:
        if adapter.digest not in self._held:
            self._held[adapter.digest] = self._read(adapter)
            while len(self._held) > 1 and sum(map(_num_bytes, self._held.values())) > self._budget_bytes:
                self._held.popitem(last=False)
        self._held.move_to_end(adapter.digest)
        return self._held[adapter.digest]

    def clear(self) -> None:
        self._held.clear()


def _num_bytes(weights: Mapping[Any, tuple[Tensor, Tensor]]) -> int:
    return sum(tensor.nbytes for pair in weights.values() for tensor in pair)
