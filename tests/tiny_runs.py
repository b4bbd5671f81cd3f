"""Runs of the tiny model on an environment of a test's, in a loop that stands already."""

import asyncio
from pathlib import Path
from typing import Any

import msgspec

from flash.artifacts import pack
from flash.bus.memory import MemoryBus
from flash.contracts.groups import GroupScored
from flash.contracts.keys import environment_key
from flash.contracts.requests import RunSubmit
from flash.contracts.runs import RunCompleted, RunFailed
from flash.contracts.spec import EnvironmentSpec, RunSpec, SamplingSpec, TrainSpec
from flash.contracts.steps import StepFinished


async def published(bus: MemoryBus, place: Path, name: str = "", **more: Any) -> EnvironmentSpec:
    """A folder or file, packed and in the bus's store; `more` is what a run says of its environment."""
    packed, name = pack(place), name or place.name
    version = packed.digest[:12]
    key = environment_key("local", name, version)
    await bus.store.put(key, packed.data)
    return EnvironmentSpec(id=f"local/{name}", version=version, digest=packed.digest, key=key, **more)


def grpo(environment: EnvironmentSpec, *, run_id: str = "r1", max_tokens: int = 16, **train: Any) -> RunSpec:
    """Four rollouts of four examples a step, two steps; `train` says otherwise."""
    knobs = {
        "lora_rank": 8, "lora_alpha": 16, "learning_rate": 1e-3, "batch_size": 4, "max_length": 128, "save_every": 2,
        "steps": 2,
    } | train  # fmt: skip
    return RunSpec(
        org="local", run_id=run_id, algorithm="grpo", model="tiny", pool="tiny", seed=7, split="train",
        environment=environment, sampling=SamplingSpec(group_size=4, temperature=1.0, max_tokens=max_tokens),
        train=msgspec.convert(knobs, TrainSpec),
    )  # fmt: skip


async def ended(bus: MemoryBus, spec: RunSpec, within_s: float = 60) -> RunCompleted | RunFailed:
    """The run's last word."""
    await bus.ask(RunSubmit(spec=spec))
    words = [kind.pattern(org=spec.org, run_id=spec.run_id) for kind in (RunCompleted, RunFailed)]
    async with asyncio.timeout(within_s):
        async for told in bus.replay(*words):
            assert isinstance(told.event, RunCompleted | RunFailed)
            return told.event
    raise AssertionError("a replay never ends")


async def trained(bus: MemoryBus, spec: RunSpec, within_s: float = 60) -> tuple[list[StepFinished], list[GroupScored]]:
    """Its steps, that of the start policy first, and its groups, once it has completed."""
    word = await ended(bus, spec, within_s)
    assert isinstance(word, RunCompleted), word
    which = {"org": spec.org, "run_id": spec.run_id}
    steps = [told.event async for told in bus.history(StepFinished.pattern(**which))]
    groups = [told.event async for told in bus.history(GroupScored.pattern(**which))]
    return steps, groups  # type: ignore[return-value]
