"""A run learns alike whichever engine draws for it. In vLLM's venv, which `make vllm` makes:

PATH=$PWD/.venv/bin:$PATH .venv-vllm/bin/python -m pytest -m long -s tests/loop/test_vllm.py
"""

import signal
from statistics import mean, stdev
from typing import Any

import pytest

from flash.contracts.runs import RunCompleted

pytest.importorskip("vllm", reason="vLLM is in a venv of its own: make vllm")

SEEDS = (1, 2, 3)
STEPS, GROUPS = 40, 8
PARTS = 4
"""Into which a curve is cut: of each, the mean reward."""


async def curve(stack: Any, engine: str, seed: int, *, killed_after: int = 0) -> list[float]:
    """The mean reward of each step."""
    run_id = f"{engine}-{seed}"
    await stack.train(run_id, seed=seed, steps=STEPS, batch_size=GROUPS, save_every=STEPS)
    if killed_after:
        await stack.step(run_id, killed_after, within_s=300)
        stack.signal("rollout-1", signal.SIGKILL)
    assert isinstance(await stack.outcome(run_id, within_s=600), RunCompleted)
    groups = [group for group in await stack.groups(run_id) if group.step <= STEPS]
    assert sorted((group.step, group.group) for group in groups) == [
        (step, group) for step in range(1, STEPS + 1) for group in range(GROUPS)
    ]
    assert not any(verdict.fault for group in groups for verdict in group.verdicts)
    rewards = {step: [v.reward for g in groups if g.step == step for v in g.verdicts] for step in range(1, STEPS + 1)}
    return [mean(rewards[step]) for step in sorted(rewards)]


@pytest.mark.long
async def test_vllm_teaches_what_the_torch_engine_does(stack: Any) -> None:
    curves: dict[str, list[list[float]]] = {}
    for engine in ("torch", "vllm"):
        await stack.replace("rollout-1", FLASH_ENGINE=engine)
        await stack.there("rollout-1", within_s=300)
        [rollout] = [replica for replica in await stack.bus.replicas(wait_s=0.5) if replica.id == "rollout-1"]
        assert rollout.metadata["engine"] == engine
        curves[engine] = [
            await curve(stack, engine, seed, killed_after=STEPS // 2 if (engine, seed) == ("vllm", SEEDS[0]) else 0)
            for seed in SEEDS
        ]
    assert stack.deaths == {"rollout-1": 1}

    size = STEPS // PARTS
    for part in range(PARTS):
        torch, vllm = (
            [mean(rewards[part * size : (part + 1) * size]) for rewards in curves[engine]] for engine in curves
        )
        noise = (stdev(torch) ** 2 / len(SEEDS) + stdev(vllm) ** 2 / len(SEEDS)) ** 0.5
        print(f"steps {part * size + 1}-{(part + 1) * size}: torch {torch}, vllm {vllm}, noise {noise:.4f}")
        assert abs(mean(vllm) - mean(torch)) < max(3 * noise, 0.03)
    for engine, runs in curves.items():
        assert all(mean(rewards[-size:]) > mean(rewards[:size]) + 0.05 for rewards in runs), engine
