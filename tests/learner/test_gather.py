"""A step's groups come in the order of their index, whatever order they were scored in."""

import asyncio
from typing import Any

from msgspec.structs import replace

from flash.bus.memory import MemoryBus
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
