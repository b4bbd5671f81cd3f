"""A run whose stream is kept short ends as one whose stream is not, whoever dies on the way."""

import asyncio
from typing import Any

import pytest

from flash.contracts.groups import GroupScored
from flash.contracts.record import RecordClosed
from flash.contracts.runs import RunCompleted
from tests.records import recorded as recorded_rows


@pytest.mark.slow
async def test_a_run_that_is_trimmed_killed_and_taken_over_ends_bit_for_bit_like_its_replay(
    stack: Any, replayed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    await stack.replace("recorder-1", "recorded:4", FLASH_SEGMENT_BYTES="10000", FLASH_KEEP_STEPS="0")
    await stack.replace("learner-1", "uploaded:8")
    await stack.train("r1", steps=10, save_every=2)

    assert isinstance(await stack.outcome("r1"), RunCompleted)
    async with asyncio.timeout(60.0):
        async for _ in stack.bus.replay(RecordClosed.pattern(org="local", run_id="r1")):
            break

    assert (stack.deaths["learner-1"], stack.deaths["recorder-1"]) == (1, 1)
    left = await stack.groups("r1")
    assert {group.step for group in left} <= {8, 9, 10}, "the groups of earlier steps have left the stream"
    rows = await recorded_rows(stack.store, "events")
    recorded = [GroupScored.decode(row["body"]) for row in rows if ".group.scored." in row["subject"]]
    steps = await stack.steps("r1")
    trained = sorted((step.step, group.group) for step in steps for group in step.groups)
    assert sorted((group.step, group.group) for group in recorded) == trained
    assert trained == [(step, group) for step in range(1, 11) for group in range(4)]

    async def from_record(run_id: str) -> list[GroupScored]:
        return recorded

    monkeypatch.setattr(stack, "groups", from_record)
    assert await replayed(stack, "r1") == steps[-1].policy.digest
