"""The two losses, over the flat vectors of a step's tokens. Pure.

Legend: N answer tokens of a micro-batch, of all its sequences one behind the other.

A step is cut into micro-batches, whose losses add up: each is a sum over tokens divided by a constant of the whole
step, so that the cut changes nothing but rounding.
"""

from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Flat:
    """What a loss sees of a micro-batch. What is said of a token whose mask is False counts nowhere."""

    logp_N: Tensor
    """In nats, under the policy in training, at the temperature of sampling; carries the gradient."""
    logp_sampler_N: Tensor
    """Under the policy that sampled, as the sampler computed it; zeros for SFT."""
    advantage_N: Tensor
    """Of the token's sequence; zeros for SFT."""
    sequence_N: Tensor
    """Which sequence of the step the token belongs to."""
    mask_N: Tensor
    """True on tokens to learn from: written by the policy (or gold), in a sequence that is not left out."""
    logp_ref_N: Tensor | None = None
    """Under the base model with adapters off, also where the run began from an adapter; None without a KL penalty."""
    logp_old_N: Tensor | None = None
    """Under the policy at the beginning of the step; None: `logp_N`, which it is as long as a batch is used once."""

    def kept(self) -> "Flat":
        """Only the tokens that count. Selecting, not multiplying by 0: what is left out may be infinite."""
        vectors: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        kept: dict[str, Any] = {key: None if each is None else each[self.mask_N] for key, each in vectors.items()}
        return Flat(**kept)


@dataclass(frozen=True)
class DrGrpo:
    """Policy gradient with a clipped ratio, a truncated importance correction, and a constant normaliser.

        ratio      = exp(logp - logp_old)                             1 in value on the only update of a batch
        correction = min(exp(logp_old - logp_sampler), cap)           a constant: no gradient flows through it
        loss       = -1/normaliser * sum of correction * min(ratio * A, clamp(ratio, 1 - clip, 1 + clip) * A)
                     + kl_coef/normaliser * sum of ratio * k3,        k3 = exp(logp_ref - logp) - (logp_ref - logp) - 1

    The clip bounds how far one step moves the policy; the correction undoes that another policy (older by up to
    `max_lag` steps, or rounding otherwise) drew the tokens. So the two stand apart, as in decoupled PPO
    (arXiv:2110.00641, AReaL arXiv:2505.24298). Truncated importance weights: IMPALA, arXiv:1802.01561. Constant
    normaliser: Dr. GRPO, arXiv:2503.20783. Clip: PPO, arXiv:1707.06347. `ratio * k3` has the gradient of
    KL(policy || base), which k3 alone has not: DeepSeek-V3.2, arXiv:2512.02556. Equal to TRL's
    `loss_type="dr_grpo", scale_rewards="none"`, which a test holds it to.
    """

    normaliser: float
    """Rollouts of the step, faulted and truncated ones included, times the run's `max_tokens`."""
    clip: float = 0.2
    cap: float | None = 2.0
    """Of the correction; None: no correction."""
    kl_coef: float = 0.0
    temperature: float = 1.0
    """That of sampling: the logits are divided by it here too, so that both speak of the same distribution."""

    @property
    def needs_reference(self) -> bool:
        return self.kl_coef > 0.0

    def loss(self, flat: Flat) -> Tensor:
        """A scalar. Zero, with a gradient of zeros, where no token counts."""
        flat = flat.kept()
        ratio_N, weight_N = _ratio(flat), self._correction(flat)
        clipped_N = torch.clamp(ratio_N, 1 - self.clip, 1 + self.clip)
        loss_N = -weight_N * torch.min(ratio_N * flat.advantage_N, clipped_N * flat.advantage_N)
        if self.kl_coef:
            loss_N = loss_N + self.kl_coef * ratio_N * _k3(flat)
        return loss_N.sum() / self.normaliser

    @torch.no_grad()
    def figures(self, flat: Flat) -> "Figures":
        """What people want to know of these tokens."""
        flat = flat.kept()
        gap_N = (flat.logp_N - flat.logp_sampler_N).abs()
        ratio_N, advantage_N = _ratio(flat), flat.advantage_N
        clipped_N = ((ratio_N > 1 + self.clip) & (advantage_N > 0)) | ((ratio_N < 1 - self.clip) & (advantage_N < 0))
        sums = {
            "logprob_gap": _sum(gap_N),
            "is_weight": _sum(self._correction(flat)),
            "clip_share": _sum(clipped_N),
        }
        if self.cap is not None:
            raw_N = torch.exp(_old(flat) - flat.logp_sampler_N)
            sums["is_capped_share"] = _sum(raw_N > self.cap)
        if self.kl_coef:
            sums["kl"] = _sum(_k3(flat))
        return Figures(tokens=int(flat.mask_N.sum()), sums=sums, maxima={"logprob_gap_max": _max(gap_N)})

    def _correction(self, flat: Flat) -> Tensor:
        if self.cap is None:
            return torch.ones_like(flat.logp_sampler_N)
        return torch.exp(_old(flat) - flat.logp_sampler_N).clamp(max=self.cap)


@dataclass(frozen=True)
class Sft:
    """Mean negative log-likelihood of the assistant's tokens: every token of the step weighs the same."""

    normaliser: float
    """Tokens of the step to learn from."""
    temperature: float = 1.0

    @property
    def needs_reference(self) -> bool:
        return False

    def loss(self, flat: Flat) -> Tensor:
        return -flat.kept().logp_N.sum() / self.normaliser

    @torch.no_grad()
    def figures(self, flat: Flat) -> "Figures":
        return Figures(tokens=int(flat.mask_N.sum()))


Loss = DrGrpo | Sft


@dataclass
class Figures:
    """What adds up over the micro-batches of a step."""

    tokens: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    """Over tokens."""
    maxima: dict[str, float] = field(default_factory=dict)
    totals: dict[str, float] = field(default_factory=dict)
    """Not to be divided by the tokens."""

    def add(self, other: "Figures") -> None:
        self.tokens += other.tokens
        for name, value in other.sums.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        for name, value in other.maxima.items():
            self.maxima[name] = max(self.maxima.get(name, value), value)
        for name, value in other.totals.items():
            self.totals[name] = self.totals.get(name, 0.0) + value

    def means(self) -> dict[str, float]:
        """Each sum per token, and the maxima; empty where there were no tokens."""
        return {name: value / self.tokens for name, value in self.sums.items()} | self.maxima if self.tokens else {}


def _old(flat: Flat) -> Tensor:
    return flat.logp_N.detach() if flat.logp_old_N is None else flat.logp_old_N


def _ratio(flat: Flat) -> Tensor:
    return torch.exp(flat.logp_N - _old(flat))


def _k3(flat: Flat) -> Tensor:
    if flat.logp_ref_N is None:
        raise ValueError("a KL penalty needs the reference's log-probabilities, and there are none")
    log_ratio_N = flat.logp_ref_N - flat.logp_N
    return torch.exp(log_ratio_N) - log_ratio_N - 1


def _sum(value_N: Tensor) -> float:
    return float(value_N.sum(dtype=torch.float64))


def _max(value_N: Tensor) -> float:
    return float(value_N.max()) if len(value_N) else 0.0
