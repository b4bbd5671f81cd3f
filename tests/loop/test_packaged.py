"""An environment of the real `verifiers` package, trained on by the real services in one process."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from flash.artifacts import pack
from flash.bus.memory import MemoryBus
from flash.contracts.groups import GroupScored
from flash.contracts.keys import environment_key
from flash.contracts.packing import unpack_ids
from flash.contracts.requests import RunSubmit
from flash.contracts.runs import RunCompleted, RunFailed
from flash.contracts.spec import EnvironmentSpec, RunSpec, SamplingSpec, TrainSpec
from flash.contracts.steps import StepFinished

PACKAGED = Path(__file__).parent / "packaged"


async def trained(bus: MemoryBus, turns: int) -> tuple[list[StepFinished], list[GroupScored]]:
    packed = pack(PACKAGED)
    key = environment_key("local", "packaged", packed.digest[:12])
    await bus.store.put(key, packed.data)
    spec = RunSpec(
        org="local", run_id="r1", algorithm="grpo", model="tiny", pool="tiny", seed=7, split="train",
        environment=EnvironmentSpec(
            id="local/packaged", version=packed.digest[:12], digest=packed.digest, key=key,
            params={"turns": turns}, pip=["verifiers==0.3.1"],
        ),
        sampling=SamplingSpec(group_size=4, temperature=1.0, max_tokens=6),
        train=TrainSpec(
            lora_rank=8, lora_alpha=16, learning_rate=1e-3, batch_size=4, max_length=128, save_every=2, steps=2
        ),
    )  # fmt: skip
    await bus.ask(RunSubmit(spec=spec))
    async with asyncio.timeout(240):
        async for told in bus.replay(RunCompleted.pattern(), RunFailed.pattern()):
            assert isinstance(told.event, RunCompleted), told.event
            break
    steps = [told.event async for told in bus.history(StepFinished.pattern())]
    groups = [told.event async for told in bus.history(GroupScored.pattern())]
    return steps, groups  # type: ignore[return-value]


@pytest.mark.slow
@pytest.mark.parametrize("turns", [1, 3])
async def test_a_run_trains_on_a_package_that_knows_nothing_of_flash(
    running: Any, verifiers_set: Path, tmp_path: Path, turns: int
) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "requirements").symlink_to(verifiers_set.parent)
    async with running(tmp_path) as bus:
        steps, groups = await trained(bus, turns)

    assert [step.step for step in steps] == [0, 1, 2]
    assert steps[-1].policy.digest != steps[0].policy.digest
    assert groups
    for group in groups:
        assert group.example.messages == [{"role": "user", "content": group.example.input}]
        for rollout, verdict in zip(group.rollouts, group.verdicts, strict=True):
            said = [message["content"] for message in rollout.messages] if turns > 1 else [rollout.text]
            found = {metric.name: metric.score for metric in verdict.metrics}
            hits = sum(a == b for a, b in zip(said[0].split(), group.example.output.split(), strict=False))
            assert found["places"] == hits / 2
            assert found["cut"] == (rollout.finish_reason == "length")
            assert verdict.reward == pytest.approx(found["places"] + 0.25 * (len(said[0]) % 7))
            assert sum(rollout.mask) == sum(turn.tokens for turn in rollout.turns) if turns > 1 else True
            assert len(rollout.mask) == len(unpack_ids(rollout.token_ids))
            if turns > 1 and rollout.finish_reason != "length":
                assert said[1::2] == ["again 1", "again 2"]
                assert found["num_turns"] == 3.0
