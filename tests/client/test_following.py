"""Following a run: flash/client/following.py."""

import asyncio
from typing import Any

import pytest

from flash.bus.memory import MemoryBus
from flash.client.following import follow, told_so_far
from flash.contracts.requests import RecordedEvent
from flash.errors import NotFound

RUN = "flash-1700000000-0000abcd"


async def collected(bus: MemoryBus, **how: float) -> list[str]:
    async with asyncio.timeout(10):
        return [event.event async for event in follow(bus, RUN, wait_s=1.0, pause_s=0.01, **how)]  # type: ignore[arg-type]


async def test_what_was_said_comes_page_by_page_and_ends_with_the_last_word(bus: MemoryBus, recorder: Any) -> None:
    for name in ("run_submitted", "run_planned", "run_started", "run_completed", "step_saved"):
        recorder.say(name)

    assert await collected(bus) == ["run.submitted.v1", "run.planned.v1", "run.started.v1", "run.completed.v1"]


async def test_what_is_said_later_comes_when_it_is_said(bus: MemoryBus, recorder: Any) -> None:
    recorder.say("run_submitted")
    following = asyncio.create_task(collected(bus))
    await asyncio.sleep(0.05)

    recorder.say("run_planned")
    await asyncio.sleep(0.05)
    recorder.say("run_failed", reason="why not")

    assert await following == ["run.submitted.v1", "run.planned.v1", "run.failed.v1"]
    assert len(recorder.asked) == 3, "it waits for news instead of asking again and again"


async def test_a_run_that_was_deleted_is_not_found(bus: MemoryBus, recorder: Any) -> None:
    recorder.say("run_deleted")

    with pytest.raises(NotFound, match=f"the run {RUN} was deleted: `flash runs` lists those that are there"):
        await told_so_far(bus, RUN)


async def test_it_can_begin_after_a_place_in_the_stream(bus: MemoryBus, recorder: Any) -> None:
    recorder.say("run_submitted")
    recorder.say("run_planned")
    recorder.say("run_cancelled")

    assert await collected(bus, after=10) == ["run.planned.v1", "run.cancelled.v1"]


async def test_a_recorder_that_goes_away_and_comes_back_is_waited_for_and_nothing_is_told_twice(
    silent_recorder: Any,
) -> None:
    bus = MemoryBus()
    first, second = bus.replica("recorder:1"), bus.replica("recorder:2")
    recorder = silent_recorder
    await recorder.answering(first)
    recorder.say("run_submitted")
    said: list[str] = []
    seen: list[RecordedEvent] = []

    async def following() -> None:
        async for event in follow(bus, RUN, wait_s=0.1, timeout_s=0.1, patience_s=5.0, pause_s=0.01, say=said.append):
            seen.append(event)

    async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
        tasks.create_task(following())
        await asyncio.sleep(0.05)
        await first.close(0)
        await asyncio.sleep(0.5)
        recorder.say("run_planned")
        recorder.say("run_completed")
        await recorder.answering(second)

    assert [event.event for event in seen] == ["run.submitted.v1", "run.planned.v1", "run.completed.v1"]
    assert len(said) == 1
    assert said[0].startswith(f"lost sight of {RUN}")


async def test_what_was_said_so_far_is_read_to_its_end(bus: MemoryBus, recorder: Any) -> None:
    for _ in range(5):
        recorder.say("step_finished")

    assert [event.sequence for event in await told_so_far(bus, RUN)] == [10, 20, 30, 40, 50]
