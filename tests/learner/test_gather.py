"""A step's groups come in the order of their index, whatever order they were scored in."""

import asyncio
from typing import Any

from msgspec.structs import replace

from flash.bus.memory import HandMovedClock, MemoryBus, MemoryStream
from flash.contracts.groups import GroupGenerated, GroupScored
from flash.contracts.steps import StepFinished
from flash.contracts.values import PolicyRef
from services.learner.gather import Groups


def groups_of(bus: MemoryBus, *, done: int = 0, per_step: int = 3) -> Groups:
    return Groups(bus, org="local", run_id="run", per_step=per_step, done=done)


async def test_groups_are_ordered_by_index_not_by_arrival(make: Any) -> None:
    bus = MemoryBus()
    await bus.publish(*(make.scored(index, step=1) for index in (2, 0, 1)))

    groups = groups_of(bus)

    assert [group.group for group in await groups.of_step(1)] == [0, 1, 2]
    await groups.close()


async def test_groups_that_come_early_are_kept_for_their_step(make: Any) -> None:
    bus = MemoryBus()
    await bus.publish(*(make.scored(index, step=step) for step, index in ((2, 0), (1, 1), (2, 2), (1, 0), (1, 2))))
    groups = groups_of(bus)

    assert [group.group_id for group in await groups.of_step(1)] == ["train-1-0", "train-1-1", "train-1-2"]
    waiting = asyncio.create_task(groups.of_step(2))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    await bus.publish(make.scored(1, step=2))

    assert [group.group_id for group in await waiting] == ["train-2-0", "train-2-1", "train-2-2"]
    await groups.close()


async def test_groups_of_other_runs_scopes_and_steps_behind_are_not_heard(make: Any) -> None:
    bus = MemoryBus()
    await bus.publish(make.scored(0, step=1), make.scored(0, step=2, run_id="other"))
    await bus.publish(replace(make.scored(0, step=2), scope="eval"), make.scored(0, (0.5, 0.0), step=2))

    groups = groups_of(bus, done=1, per_step=1)

    (group,) = await groups.of_step(2)
    assert (group.run_id, group.scope, group.verdicts[0].reward) == ("run", "train", 0.5)
    await groups.close()


def finished(version: int) -> StepFinished:
    return StepFinished(org="local", run_id="run", attempt=1, step=version, policy=PolicyRef(version=version))


def generated(group: GroupScored) -> GroupGenerated:
    named = ("org", "run_id", "scope", "step", "group", "example", "policy", "prompt_ids", "rollouts")
    return GroupGenerated(**{name: getattr(group, name) for name in named})


async def test_a_policy_is_picked_up_when_the_first_group_that_it_played_is_generated(make: Any) -> None:
    clock = HandMovedClock()
    bus = MemoryBus(stream=MemoryStream(clock=clock))
    first, second = make.scored(0, step=2, version=1), make.scored(1, step=2, version=1)
    await bus.publish(finished(1))
    clock.advance(0.25)
    await bus.publish(generated(first))
    clock.advance(1.0)
    await bus.publish(generated(second), first, second)
    groups = groups_of(bus, per_step=2)
    await bus.publish(*(make.scored(index, step=1, version=0) for index in range(2)))

    await groups.of_step(1)  # the other groups came early

    assert await groups.pickup_s() == 0.25
    assert await groups.pickup_s() is None
    await groups.of_step(2)
    assert await groups.pickup_s() is None  # it was told
    await groups.close()


async def test_how_soon_a_policy_was_picked_up_is_not_told_of_one_from_before_the_reading(make: Any) -> None:
    bus = MemoryBus()
    played = make.scored(0, step=2, version=1)
    await bus.publish(finished(1), generated(played), played)
    groups = groups_of(bus, done=1, per_step=1)

    await groups.of_step(2)

    assert await groups.pickup_s() is None
    await groups.close()
