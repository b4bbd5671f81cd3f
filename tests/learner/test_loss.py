"""The two losses over flat vectors, against numbers worked out by hand and finite differences."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from services.learner.loss import DrGrpo, Figures, Flat, Sft


def flat(
    logp: list[float],
    sampler: list[float] | None = None,
    advantage: list[float] | None = None,
    mask: list[bool] | None = None,
    ref: list[float] | None = None,
    old: list[float] | None = None,
) -> Flat:
    count = len(logp)
    return Flat(
        logp_N=torch.tensor(logp, requires_grad=True),
        logp_sampler_N=torch.tensor(sampler or logp),
        advantage_N=torch.tensor(advantage or [1.0] * count),
        sequence_N=torch.zeros(count, dtype=torch.long),
        mask_N=torch.tensor([True] * count if mask is None else mask),
        logp_ref_N=None if ref is None else torch.tensor(ref),
        logp_old_N=None if old is None else torch.tensor(old),
    )


def gradient(loss: Any, vectors: Flat) -> Tensor:
    (grad,) = torch.autograd.grad(loss.loss(vectors), vectors.logp_N)
    return grad


def test_on_policy_the_gradient_is_reinforce_over_a_constant() -> None:
    vectors = flat([-1.0, -2.0, -3.0], advantage=[0.5, 0.5, -1.0])
    loss = DrGrpo(normaliser=20.0)

    assert loss.loss(vectors).item() == pytest.approx(-(0.5 + 0.5 - 1.0) / 20)
    assert gradient(loss, vectors).tolist() == pytest.approx([-0.5 / 20, -0.5 / 20, 1.0 / 20])
    assert loss.figures(vectors).sums["clip_share"] == 0.0


def test_what_another_policy_drew_is_weighed_by_how_likely_we_were_to_draw_it_up_to_the_cap() -> None:
    vectors = flat([-1.0, -1.0, -1.0], sampler=[-1.0 - math.log(1.5), -3.0, -1.0 + math.log(4)])
    loss = DrGrpo(normaliser=1.0)

    assert gradient(loss, vectors).tolist() == pytest.approx([-1.5, -2.0, -0.25])
    assert loss.figures(vectors).sums["is_capped_share"] == 1
    assert gradient(DrGrpo(normaliser=1.0, cap=None), vectors).tolist() == [-1.0, -1.0, -1.0]


def test_a_ratio_beyond_the_clip_pushes_no_further() -> None:
    old = [-1.0 - math.log(1.5), -1.0 - math.log(1.5), -1.0 + math.log(2.0), -1.0 + math.log(2.0)]
    vectors = flat([-1.0] * 4, sampler=old, advantage=[1.0, -1.0, 1.0, -1.0], old=old)
    loss = DrGrpo(normaliser=1.0)

    # min(1.5, 1.2); min(-1.5, -1.2); min(0.5, 0.8); min(-0.5, -0.8)
    assert loss.loss(vectors).item() == pytest.approx(-(1.2 - 1.5 + 0.5 - 0.8))
    assert gradient(loss, vectors).tolist() == pytest.approx([0.0, 1.5, -0.5, 0.0])
    assert loss.figures(vectors).sums["clip_share"] == 2


def test_the_gradient_agrees_with_finite_differences() -> None:
    logits = torch.tensor([0.3, -0.2, 0.9], dtype=torch.float64)
    ref, sampler = logits.log_softmax(0) + 0.2, logits.log_softmax(0).detach() - 0.1
    loss = DrGrpo(normaliser=7.0, kl_coef=0.3)

    def value(z: Tensor) -> Tensor:
        logp = z.log_softmax(0)
        advantage = torch.tensor([1.0, -0.5, 0.25], dtype=torch.float64)
        mask, sequence = torch.ones(3, dtype=torch.bool), torch.zeros(3)
        return loss.loss(Flat(logp, sampler, advantage, sequence, mask, ref.detach(), logits.log_softmax(0).detach()))

    assert torch.autograd.gradcheck(value, [logits.clone().requires_grad_()])


def test_what_is_masked_counts_nowhere_whatever_it_says() -> None:
    loss = DrGrpo(normaliser=4.0, kl_coef=0.1)
    without = flat([-1.0, -2.0], ref=[-1.1, -2.2])
    masked = flat([-1.0, -math.inf, -2.0], ref=[-1.1, 5.0, -2.2], mask=[True, False, True])

    assert loss.loss(masked).item() == loss.loss(without).item()
    assert gradient(loss, masked)[1] == 0.0
    assert gradient(loss, masked)[[0, 2]].tolist() == gradient(loss, without).tolist()
    assert loss.figures(masked) == loss.figures(without)


def test_the_kl_penalty_is_k3_and_its_gradient_that_of_the_reverse_kl() -> None:
    policy, ref = torch.randn(50, generator=torch.Generator().manual_seed(0)), torch.zeros(50)
    ref = ref.log_softmax(0)
    logits = policy.clone().requires_grad_()
    # The expectation over the policy's own tokens, exactly: each token counted by its probability.
    logp = logits.log_softmax(0)
    weight = logp.detach().exp()
    k3 = torch.exp(ref - logp) - (ref - logp) - 1
    ratio = torch.exp(logp - logp.detach())
    (found,) = torch.autograd.grad((weight * ratio * k3).sum(), logits)

    true = (logits.log_softmax(0).exp() * (logits.log_softmax(0) - ref)).sum()
    (wanted,) = torch.autograd.grad(true, logits)

    assert (weight * k3).sum().item() == pytest.approx(true.item(), abs=1e-5)
    assert torch.allclose(found, wanted, atol=1e-6)
    vectors = flat([-1.0], ref=[-1.5], advantage=[0.0])
    assert DrGrpo(normaliser=1.0, kl_coef=2.0).loss(vectors).item() == pytest.approx(2 * (math.exp(-0.5) + 0.5 - 1))


def test_k3_has_less_variance_than_k1_near_the_reference_and_both_have_its_mean() -> None:
    torch.manual_seed(0)
    z = torch.randn(50)
    p, q = z.log_softmax(0), (z + 0.1 * torch.randn(50)).log_softmax(0)
    true = float((p.exp() * (p - q)).sum())
    log_ratio = (q - p)[torch.multinomial(p.exp(), 200_000, True)]
    k1, k3 = -log_ratio, log_ratio.exp() - 1 - log_ratio

    assert float(k3.mean()) == pytest.approx(true, abs=5e-4)
    assert float(k1.mean()) == pytest.approx(true, abs=1e-3)
    assert float(k3.std()) < float(k1.std()) / 5


def test_a_penalty_without_a_reference_is_refused() -> None:
    with pytest.raises(ValueError, match="reference"):
        DrGrpo(normaliser=1.0, kl_coef=0.1).loss(flat([-1.0]))


def test_sft_is_the_mean_negative_log_likelihood_of_what_counts() -> None:
    vectors = flat([-1.0, -2.0, -6.0], mask=[True, True, False])

    assert Sft(normaliser=2.0).loss(vectors).item() == pytest.approx(1.5)
    assert gradient(Sft(normaliser=2.0), vectors).tolist() == [-0.5, -0.5, 0.0]


def test_figures_add_up_over_micro_batches() -> None:
    loss = DrGrpo(normaliser=1.0)
    whole = loss.figures(flat([-1.0, -2.0, -3.0], sampler=[-1.0, -2.5, -5.0]))
    parts = Figures()
    parts.add(loss.figures(flat([-1.0, -2.0], sampler=[-1.0, -2.5])))
    parts.add(loss.figures(flat([-3.0], sampler=[-5.0])))

    assert parts == whole
    assert whole.means()["logprob_gap"] == pytest.approx(2.5 / 3)
    assert whole.means()["logprob_gap_max"] == 2.0
    assert Figures().means() == {}
