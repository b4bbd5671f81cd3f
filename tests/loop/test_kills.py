"""Kill any process at any moment: the run goes on, and no group is trained on twice or lost."""

import asyncio
import os
import signal
from typing import Any

import pytest

from flash.contracts.runs import RunCompleted

POINTS = [
    ("learner", "before-upload:2"), ("learner", "uploaded:2"), ("learner", "told"), ("learner", "acknowledged"),
    ("rollout", "before-generate:3"), ("rollout", "generated:3"), ("rollout", "told:3"), ("rollout", "acknowledged:3"),
    ("scorer", "before-score:3"), ("scorer", "told:3"), ("scorer", "acknowledged:3"),
    ("scheduler", "before-asking:2"), ("scheduler", "asked:2"),
]  # fmt: skip
DAY = int(os.environ.get("FLASH_CHAOS_SEED", "0"))
OF_THE_DAY = [POINTS[(3 * DAY + i) % len(POINTS)] for i in range(3)]
"""CI turns the wheel with every commit."""


async def holds(stack: Any, run_id: str, replayed: Any) -> None:
    """What must be true of a run whatever happened on the way."""
    steps, groups = await stack.steps(run_id), await stack.groups(run_id)
    assert [step.step for step in steps] == list(range(7))
    trained = sorted((step.step, group.group) for step in steps for group in step.groups)
    finished = sorted((group.step, group.group) for group in groups if group.step <= 6)
    assert trained == finished == [(step, group) for step in range(1, 7) for group in range(4)]
    assert await replayed(stack, run_id) == steps[-1].policy.digest


async def survives(stack: Any, replayed: Any, service: str, point: str) -> None:
    await stack.replace(f"{service}-1", kill_at=point)

    await stack.train("r1")

    assert isinstance(await stack.outcome("r1"), RunCompleted)
    for _ in range(50):
        if stack.deaths.get(f"{service}-1"):
            break
        await asyncio.sleep(0.1)
    assert stack.deaths[f"{service}-1"] == 1, "the kill point was never passed"
    await holds(stack, "r1", replayed)


@pytest.mark.long
@pytest.mark.parametrize(("service", "point"), POINTS, ids=lambda value: str(value))
async def test_a_run_survives_the_death_of_any_service_at_any_point(
    stack: Any, replayed: Any, service: str, point: str
) -> None:
    await survives(stack, replayed, service, point)


@pytest.mark.slow
@pytest.mark.parametrize(("service", "point"), OF_THE_DAY, ids=lambda value: str(value))
async def test_a_run_survives_the_deaths_of_the_day(stack: Any, replayed: Any, service: str, point: str) -> None:
    await survives(stack, replayed, service, point)


@pytest.mark.slow
async def test_a_run_survives_the_death_of_nats_server(stack: Any, replayed: Any) -> None:
    await stack.train("r1")
    await stack.step("r1", 1)

    await stack.nats.kill()
    await stack.nats.start()

    assert isinstance(await stack.outcome("r1"), RunCompleted)
    await holds(stack, "r1", replayed)


@pytest.mark.slow
async def test_a_learner_that_wakes_after_another_took_over_falls_silent(stack: Any, replayed: Any) -> None:
    await stack.train("r1")
    await stack.step("r1", 1)

    stack.signal("learner-1", signal.SIGSTOP)
    await stack.run("learner", "learner-2")
    await stack.step("r1", 4)
    stack.signal("learner-1", signal.SIGCONT)

    assert isinstance(await stack.outcome("r1"), RunCompleted)
    await holds(stack, "r1", replayed)
    assert "handler.fenced" in stack.logs("learner-1")
