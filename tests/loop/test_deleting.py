"""A run is deleted on a real bus by services that are killed while they are at it."""

import asyncio
from typing import Any

import pytest

from flash.client import delete, runs, view
from flash.client.usage import usage
from flash.contracts.record import RecordClosed
from flash.contracts.runs import RunCompleted, RunDeleted
from flash.contracts.usage import UsageSum
from flash.errors import NotFound


async def left(stack: Any, run_id: str) -> tuple[list[str], list[str]]:
    """The keys under which something of a run or its rows lies, and the facts about it."""
    keys = [stat.key for prefix in (f"runs/{run_id}/", "datasets/") for stat in await listed(stack, prefix)]
    told = [told.event async for told in stack.bus.history("flash.>")]
    return keys, [event.name for event in told if getattr(event, "run_id", "") == run_id]


async def listed(stack: Any, prefix: str) -> list[Any]:
    return [stat async for stat in stack.store.list(prefix)]


@pytest.mark.slow
async def test_a_run_is_gone_whoever_is_killed_while_it_is_deleted(stack: Any) -> None:
    await stack.train("r1", steps=2)
    assert isinstance(await stack.outcome("r1"), RunCompleted)
    async with asyncio.timeout(90):
        async for _ in stack.bus.replay(RecordClosed.pattern(org="local", run_id="r1")):
            break
    before, _ = await left(stack, "r1")
    assert {key.split("/")[2] for key in before if key.startswith("runs/")} >= {"adapters", "checkpoints", "record"}
    await stack.replace("recorder-1", kill_at="object-erased:3")
    await stack.replace("scheduler-1", kill_at="row-erased")

    await delete(stack.bus, "r1")

    for _ in range(300):
        if await left(stack, "r1") == ([], [RunDeleted.name]):
            break
        await asyncio.sleep(0.1)
    assert await left(stack, "r1") == ([], [RunDeleted.name])
    assert (stack.deaths["recorder-1"], stack.deaths["scheduler-1"]) == (1, 1), "a kill point was never passed"
    assert (await runs(stack.bus)).runs == []
    with pytest.raises(NotFound, match="the run r1 was deleted"):
        await view(stack.bus, "r1")
    used = (await usage(stack.bus, UsageSum(org="local", by="run"))).rows
    assert [(row.name, row.used.steps, row.used.rollouts) for row in used] == [("r1", 2, 32)], "what it used stays"
