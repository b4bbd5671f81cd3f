"""Products with a weight that stays, laid out as the machine multiplies with it fastest."""

import torch
import torch.nn.functional as F  # noqa: N812 - as everybody calls it
from torch import Tensor

PACKED_NUMEL = 1 << 18
"""Smaller weights, as all of `tiny`'s are, are no faster for being packed."""
_ROWS = 16
"""How many rows oneDNN lays a weight out for; with more and with fewer it is as fast."""


class Linear:
    """y = x W^T + bias. On x86 in float32 the weight is packed for oneDNN, once: a fifth to two thirds faster than
    `F.linear`, the more the larger it is."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        self.shape_only = weight.to("meta")
        """[out, in], without numbers."""
        self._bias = bias
        self._is_packed = _is_worth_packing(weight)
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight, _ROWS) if self._is_packed else weight

    @property
    def tensors(self) -> list[Tensor]:
        return [self._weight] if self._bias is None else [self._weight, self._bias]

    def __call__(self, x: Tensor) -> Tensor:
        if not self._is_packed:
            return F.linear(x, self._weight, self._bias)
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._weight, self._bias, "none", [], "")
        return y


def _is_worth_packing(weight: Tensor) -> bool:
    return (
        weight.device.type == "cpu"
        and weight.dtype == torch.float32
        and weight.numel() >= PACKED_NUMEL
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and torch.backends.cpu.get_cpu_capability().startswith("AVX")
    )
