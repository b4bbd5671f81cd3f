"""Drawing tokens: each row by its own random numbers. Legend: N rows, V vocabulary."""

import numpy as np
import torch
from torch import Tensor


def uniforms(seed: int, count: int) -> list[float]:
    """[count] numbers in [0, 1), multiples of 2^-24, from the seed alone: a longer list begins with the shorter."""
    numbers: list[float] = np.random.Generator(np.random.Philox(key=seed)).random(count, dtype=np.float32).tolist()
    return numbers


def draw(logits_NV: Tensor, temperature_N: list[float], uniform_N: list[float]) -> tuple[list[int], list[float]]:
    """[N] token ids by inverse CDF, and [N] log_softmax(logits / temperature) at them.

    The token is the first whose cumulated probability exceeds the row's uniform number, so that one with probability
    zero is never drawn. At temperature 0 it is the likeliest, and the log-probability is that at temperature 1.
    A row without finite probabilities gives NaN.
    """
    scale_N = [temperature or 1.0 for temperature in temperature_N]
    if any(scale != 1.0 for scale in scale_N):
        logits_NV = logits_NV / logits_NV.new_tensor(scale_N)[:, None]
    p_NV = logits_NV.softmax(-1)
    if all(temperature_N):
        id_N1 = _inverse_cdf(p_NV, uniform_N)
    elif not any(temperature_N):
        id_N1 = p_NV.argmax(-1, keepdim=True)
    else:
        greedy_N1 = torch.tensor(temperature_N, device=p_NV.device)[:, None] == 0
        id_N1 = torch.where(greedy_N1, p_NV.argmax(-1, keepdim=True), _inverse_cdf(p_NV, uniform_N))
    return id_N1[:, 0].tolist(), p_NV.gather(1, id_N1).log()[:, 0].tolist()


def _inverse_cdf(p_NV: Tensor, uniform_N: list[float]) -> Tensor:
    cdf_NV = p_NV.cumsum(-1)
    # A multiple of 2^-24 below 1 times the total stays below the total, also when rounded: no index past the end, but
    # where the row holds NaN.
    aim_N1 = cdf_NV[:, -1:] * cdf_NV.new_tensor(uniform_N)[:, None]
    return torch.searchsorted(cdf_NV, aim_N1, right=True).clamp_(max=p_NV.shape[1] - 1)
