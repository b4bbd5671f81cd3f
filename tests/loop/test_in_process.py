"""GRPO through all services in one process: what is true of the loop whatever carries it."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flash.bus import Shared
from flash.bus.memory import MemoryBus
from flash.contracts.base import Event
from flash.contracts.groups import GroupScored
from flash.contracts.runs import RunStarted
from flash.contracts.steps import StepFinished
from flash.models import folder
from services.learner.policy import Base
from services.learner.service import Learner
from services.learner.settings import Settings as LearnerSettings
from tests.tiny_runs import grpo, published, trained

SORTING = Path(__file__).parent / "sorting"
STEPS = 3

Wrap = Callable[[Shared], Shared]


def unchanged(subscription: Shared) -> Shared:
    return subscription


def twice(subscription: Shared) -> Shared:
    """Every message is delivered twice: its handler runs twice, and says everything twice."""
    if subscription.event is RunStarted:
        return subscription  # lasts for the whole run; a second delivery is what takeovers test

    async def handler(event: Event) -> Sequence[Event]:
        first: Any = subscription.handler(event)
        second: Any = subscription.handler(event)
        return [*await first, *await second]

    return replace(subscription, handler=handler)


async def replayed(recorded: MemoryBus, groups: list[GroupScored]) -> str:
    """The adapter that the same groups give to a learner that nobody disturbs, by its digest."""
    bus = MemoryBus(recorded.store)
    await bus.publish(*groups)
    started = await recorded.last(RunStarted.pattern())
    base = await asyncio.to_thread(Base.load, folder("tiny", Path()), "tiny", "cpu")
    learner = Learner(bus, bus.store, base, lambda *_: ([], []), LearnerSettings(), "tiny")
    said = [event async for event in learner.on_run_started(started.event)]  # type: ignore[union-attr, arg-type]
    return next(event.policy.digest for event in reversed(said) if isinstance(event, StepFinished))


@pytest.mark.parametrize("wrap", [unchanged, twice], ids=["once", "delivered twice"])
async def test_the_groups_that_steps_name_are_the_scored_ones_each_once(
    running: Any, tmp_path: Path, wrap: Wrap
) -> None:
    async with running(tmp_path, wrap) as bus:
        steps, groups = await trained(bus, grpo(await published(bus, SORTING), steps=STEPS, max_lag=0))

    assert [step.step for step in steps] == list(range(STEPS + 1))
    named = [(step.step, group.group) for step in steps for group in step.groups]
    assert named == sorted((group.step, group.group) for group in groups)
    assert len(set(named)) == len(named) == 4 * STEPS
    assert await replayed(bus, groups) == steps[-1].policy.digest


async def test_sampler_and_learner_agree_on_every_token_of_a_strictly_on_policy_run(
    running: Any, tmp_path: Path
) -> None:
    async with running(tmp_path) as bus:
        steps, groups = await trained(bus, grpo(await published(bus, SORTING), steps=STEPS, max_lag=0))

    assert all(group.policy.version == group.step - 1 for group in groups)
    assert all(step.metrics["lag"] == 0.0 for step in steps[1:])
    assert all(0 < step.metrics["pickup_s"] < 60 for step in steps[2:])
    for step in steps[1:]:
        assert step.metrics["logprob_gap_max"] < 1e-4
