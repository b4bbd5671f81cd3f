"""Thoughts through all services in one process: counted, and each token of them taken from the reward."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from flash.artifacts import pack
from flash.contracts.groups import GroupScored
from flash.contracts.keys import environment_key
from flash.contracts.packing import unpack_ids
from flash.contracts.requests import RunSubmit
from flash.contracts.runs import RunCompleted, RunFailed
from flash.contracts.spec import EnvironmentSpec, RunSpec, SamplingSpec, TrainSpec
from flash.contracts.steps import StepFinished
from flash.models import folder
from flash.models.rendering import load_tokenizer

SORTING = Path(__file__).parent / "sorting"
COEF = 0.125
TRAIN = TrainSpec(
    lora_rank=8, lora_alpha=16, learning_rate=1e-3, batch_size=4, max_length=256, save_every=9, steps=1,
    thinking_length_penalty_coef=COEF,
)  # fmt: skip


async def test_long_thoughts_cost_reward(running: Any, tmp_path: Path) -> None:
    packed = pack(SORTING)
    version = packed.digest[:12]
    key = environment_key("local", "sorting", version)
    environment = EnvironmentSpec(id="local/sorting", version=version, digest=packed.digest, key=key)
    spec = RunSpec(
        org="local", run_id="r1", algorithm="grpo", model="tiny", pool="tiny", seed=7, split="train", thinking=True,
        environment=environment, sampling=SamplingSpec(group_size=4, temperature=1.0, max_tokens=64), train=TRAIN,
    )  # fmt: skip
    async with running(tmp_path) as bus:
        await bus.store.put(key, packed.data)
        await bus.ask(RunSubmit(spec=spec))
        async with asyncio.timeout(60):
            async for told in bus.replay(RunCompleted.pattern(), RunFailed.pattern()):
                assert isinstance(told.event, RunCompleted), told.event
                break
        groups = [told.event async for told in bus.history(GroupScored.pattern())]
        [*_, step] = [told.event async for told in bus.history(StepFinished.pattern())]

    tokenizer = load_tokenizer(folder("tiny", tmp_path))
    begin, end = (tokenizer.convert_tokens_to_ids(mark) for mark in ("<think>", "</think>"))
    thought, rewards = [], []
    for group in groups:
        assert isinstance(group, GroupScored)
        for rollout, verdict in zip(group.rollouts, group.verdicts, strict=True):
            ids = unpack_ids(rollout.token_ids)
            if ids.count(begin) == ids.count(end) == 1:
                assert rollout.thinking_tokens == ids.index(end) - ids.index(begin) - 1
            assert rollout.thinking_tokens is not None
            assert verdict.reward is not None
            earned = verdict.reward + COEF * rollout.thinking_tokens
            assert 0.0 <= earned <= 1.0
            thought.append(rollout.thinking_tokens)
            rewards.append(verdict.reward)
    assert max(thought) > 0
    assert isinstance(step, StepFinished)
    assert step.metrics["think_len"] == pytest.approx(sum(thought) / len(thought))
    assert step.metrics["reward"] == pytest.approx(sum(rewards) / len(rewards))
