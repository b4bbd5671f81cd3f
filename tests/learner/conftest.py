"""A random small model, and what fills in the rest of an event."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from flash.contracts.groups import GroupScored
from flash.contracts.packing import pack_floats, pack_ids
from flash.contracts.runs import RunStarted
from flash.contracts.spec import EnvironmentSpec, RunSpec, SamplingSpec, TrainSpec
from flash.contracts.values import Example, Fault, PolicyRef, Rollout, Verdict
from services.learner.batch import Answer, Tree
from services.learner.policy import Base, Cut

VOCABULARY = 64


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def random_qwen3(seed: int = 0, **changed: Any) -> Any:
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(seed)
    shape: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 256,
        "initializer_range": 0.2,  # sharper than usual, so that wrong attention shows
    }
    return Qwen3ForCausalLM(Qwen3Config(**shape | changed)).float().eval()


@pytest.fixture
def base() -> Base:
    return Base(random_qwen3(), "random")


def random_ids(count: int, seed: int) -> list[int]:
    ids: list[int] = torch.randint(0, VOCABULARY, (count,), generator=torch.Generator().manual_seed(seed)).tolist()
    return ids


def random_trees(groups: int = 3, size: int = 4, seed: int = 0) -> list[Tree]:
    """Prompts and answers of different lengths, advantages that add up to nothing, sampler logprobs near the mark."""

    def answer(group: int, index: int) -> Answer:
        length = 2 + (group * 3 + index * 5) % 9
        return Answer(
            ids_T=random_ids(length, seed=1_000 * seed + 10 * group + index),
            mask_T=[1] * length,
            logp_sampler_T=[-3.0 - 0.1 * index] * length,
            advantage=index - (size - 1) / 2,
        )

    return [
        Tree(random_ids(4 + 3 * group, seed=500 + 1_000 * seed + group), tuple(answer(group, i) for i in range(size)))
        for group in range(groups)
    ]


def stir(policy: Any, seed: int = 7) -> Any:
    """A policy that is not the base any more: both LoRA factors are random."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in policy._weights.values():
            weight.copy_(0.1 * torch.randn(weight.shape, generator=generator))
    return policy


def gradient(policy: Any, trees: Sequence[Tree], loss: Any, max_tokens: int = 4_096) -> tuple[torch.Tensor, float]:
    """Of the whole step, before it is clipped, and the loss."""
    from services.learner.rows import micro_batches

    policy._model.set_adapter(policy._name)
    policy._optimiser.zero_grad()
    total = 0.0
    for batch in micro_batches(trees, max_tokens=max_tokens, share=policy._base.capabilities.share):
        total += policy._learn(batch, loss).totals["loss"]
    return torch.cat([weight.grad.flatten() for weight in policy._weights.values()]), total


def scored(
    group: int = 0,
    rewards: Sequence[float | None] = (1.0, 0.0),
    *,
    step: int = 1,
    version: int = 0,
    finish: Sequence[str] | None = None,
    run_id: str = "run",
    **verdict: Any,
) -> GroupScored:
    """A group with random tokens, the same for the same step and index."""

    def rollout(index: int) -> Rollout:
        length = 3 + (index + group + step) % 4
        return Rollout(
            token_ids=pack_ids(random_ids(length, seed=10_000 * step + 100 * group + index)),
            logprobs=pack_floats([-4.0] * length),
            mask=b"\x01" * length,
            finish_reason=finish[index] if finish else "stop",  # type: ignore[arg-type]
        )

    def judged(reward: float | None) -> Verdict:
        if reward is None:
            return Verdict(fault=Fault(kind="raised", message="ValueError: no"))
        return Verdict(reward=reward, **verdict)

    return GroupScored(
        org="local",
        run_id=run_id,
        scope="train",
        step=step,
        group=group,
        example=Example(index=group, id=f"example_{group:06d}", input="?"),
        policy=PolicyRef(version=version),
        prompt_ids=pack_ids(random_ids(5 + group, seed=77 + group)),
        rollouts=[rollout(index) for index in range(len(rewards))],
        verdicts=[judged(reward) for reward in rewards],
    )


def spec_of(algorithm: str = "grpo", run_id: str = "run", **train: Any) -> RunSpec:
    settings: dict[str, Any] = {
        "lora_rank": 4,
        "lora_alpha": 8,
        "learning_rate": 1e-2,
        "batch_size": 2,
        "max_length": 32,
        "save_every": 1,
        "steps": 4,
    }
    return RunSpec(
        org="local",
        run_id=run_id,
        algorithm=algorithm,  # type: ignore[arg-type]
        model="random",
        pool="random",
        seed=3,
        environment=EnvironmentSpec(id="local/e", version="v", digest="d", key="k"),
        split="train",
        sampling=SamplingSpec(group_size=2, temperature=1.0, max_tokens=8) if algorithm == "grpo" else None,
        train=TrainSpec(**settings | train),
    )


def started(spec: RunSpec, *, steps: int = 4, per_step: int = 2, rows: int = 8) -> RunStarted:
    return RunStarted(
        org=spec.org,
        run_id=spec.run_id,
        pool=spec.pool,
        attempt=1,
        steps=steps,
        prompts_per_step=per_step,
        rows=rows,
    )


@pytest.fixture(name="make")
def make_fixture() -> SimpleNamespace:
    """The helpers above: tests are files of their own, which import nothing from each other."""
    return SimpleNamespace(
        random_qwen3=random_qwen3,
        random_ids=random_ids,
        random_trees=random_trees,
        stir=stir,
        gradient=gradient,
        scored=scored,
        cut=Cut,
        spec=spec_of,
        started=started,
    )
