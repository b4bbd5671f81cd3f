"""What a run leaves behind is the run: every group word for word, every rollout with its advantage."""

import asyncio
from typing import Any

import pytest

from flash.contracts.groups import GroupScored
from flash.contracts.record import RecordClosed, RolloutsFind
from flash.contracts.runs import RunCompleted
from tests.records import recorded as recorded_rows


@pytest.mark.slow
async def test_a_run_is_found_again_in_its_record(stack: Any) -> None:
    await stack.replace("recorder-1", "segment-stored:3", FLASH_SEGMENT_BYTES="5000")
    await stack.train("r1")
    assert isinstance(await stack.outcome("r1"), RunCompleted)
    async with asyncio.timeout(60.0):
        async for _ in stack.bus.replay(RecordClosed.pattern(org="local", run_id="r1")):
            break

    found = await stack.bus.ask(RolloutsFind(org="local", run_id="r1", limit=1_000), 60.0)
    best = await stack.bus.ask(RolloutsFind(org="local", run_id="r1", sort=["-reward"], limit=1), 60.0)

    groups, steps = await stack.groups("r1"), await stack.steps("r1")
    told = {
        (f"train-{step.step}-{group.group}", index): advantage
        for step in steps
        for group in step.groups
        for index, advantage in enumerate(group.advantages)
    }
    assert stack.deaths["recorder-1"] == 1
    assert found.total == len(told) == 6 * 4 * 4
    assert {(rollout.group_id, rollout.index): rollout.advantage for rollout in found.rollouts} == told
    assert best.rollouts[0].reward == max(v.reward for group in groups for v in group.verdicts if v.reward is not None)
    rows = await recorded_rows(stack.store, "events")
    assert [GroupScored.decode(r["body"]) for r in rows if ".group.scored." in r["subject"]] == groups
