"""Thoughts through all services in one process: counted, and each token of them taken from the reward."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from flash.contracts.groups import GroupScored
from flash.contracts.packing import unpack_ids
from flash.contracts.steps import StepFinished
from flash.models import folder
from flash.models.rendering import load_tokenizer
from tests.tiny_runs import grpo, published, trained

SORTING = Path(__file__).parent / "sorting"
COEF = 0.125


async def test_long_thoughts_cost_reward(running: Any, tmp_path: Path) -> None:
    async with running(tmp_path) as bus:
        train = {"max_length": 256, "save_every": 9, "steps": 1, "thinking_length_penalty_coef": COEF}
        spec = grpo(await published(bus, SORTING), max_tokens=64, **train)
        [*_, step], groups = await trained(bus, msgspec.structs.replace(spec, thinking=True))

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
