"""An environment in the verifiers dialect, trained on by the real services in one process."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from flash.artifacts import pack
from flash.bus.memory import MemoryBus
from flash.contracts.groups import GroupScored
from flash.contracts.keys import environment_key
from flash.contracts.requests import RunSubmit
from flash.contracts.runs import RunCompleted, RunFailed
from flash.contracts.spec import EnvironmentSpec, RunSpec, SamplingSpec, TrainSpec
from flash.contracts.steps import StepFinished

JUDGED = Path(__file__).parent / "judged"
GROUP = 4


async def trained(bus: MemoryBus) -> tuple[list[StepFinished], list[GroupScored]]:
    packed = pack(JUDGED)
    environment = EnvironmentSpec(
        id="local/judged", version=packed.digest[:12], digest=packed.digest,
        key=environment_key("local", "judged", packed.digest[:12]),
    )  # fmt: skip
    await bus.store.put(environment.key, packed.data)
    spec = RunSpec(
        org="local", run_id="r1", algorithm="grpo", model="tiny", pool="tiny", seed=7, split="train",
        environment=environment, sampling=SamplingSpec(group_size=GROUP, temperature=1.0, max_tokens=8),
        train=TrainSpec(
            lora_rank=8, lora_alpha=16, learning_rate=1e-3, batch_size=4, max_length=128, save_every=2, steps=2,
        ),
    )  # fmt: skip
    await bus.ask(RunSubmit(spec=spec))
    async with asyncio.timeout(60):
        async for told in bus.replay(RunCompleted.pattern(), RunFailed.pattern()):
            assert isinstance(told.event, RunCompleted), told.event
            break
    steps = [told.event async for told in bus.history(StepFinished.pattern())]
    groups = [told.event async for told in bus.history(GroupScored.pattern())]
    return steps, groups  # type: ignore[return-value]


async def test_a_run_trains_on_what_the_rubric_says_of_each_group(running: Any, tmp_path: Path) -> None:
    async with running(tmp_path) as bus:
        steps, groups = await trained(bus)

    assert [step.step for step in steps] == [0, 1, 2]
    assert steps[-1].policy.digest != steps[0].policy.digest
    assert len(groups) == 8
    for group in groups:
        assert group.example.messages == [{"role": "user", "content": group.example.input}]
        texts = [rollout.text for rollout in group.rollouts]
        for at, (text, verdict) in enumerate(zip(texts, group.verdicts, strict=True)):
            if not text.split():
                assert verdict.fault is not None
                assert verdict.fault.message.startswith("ZeroDivisionError")
                continue
            hits = sum(a == b for a, b in zip(text.split(), group.example.output.split(), strict=False))
            assert verdict.reward == pytest.approx(hits / 2 + 0.25 * (text not in texts[:at]))
            found = {metric.name: metric.score for metric in verdict.metrics}
            assert found == {
                "places": hits / 2, "first_said": float(text not in texts[:at]), "no_empty_answers": 0.0,
                "<lambda>": group.example.record["gap"],
            }  # fmt: skip
