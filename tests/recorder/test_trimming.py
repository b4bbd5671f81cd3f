"""A run of any length keeps a short stream, and what leaves it is in the record."""

import asyncio
from typing import Any

import msgspec
import pytest

from flash.contracts.groups import GroupEvent
from flash.contracts.record import RecordClosed, RolloutsFind
from flash.contracts.requests import EventsFind
from flash.contracts.runs import RunEvaluated
from flash.contracts.spec import EnvironmentSpec, RunSpec, TrainSpec
from flash.contracts.steps import StepSaved
from flash.contracts.values import PolicyRef
from services.recorder.trimming import last_to_forget


@pytest.mark.parametrize(
    ("saved", "finished", "keep_steps", "last"),
    [
        ([], [0, 1], 0, 0),
        ([4], [0, 1, 2, 3, 4], 0, 0),
        ([4, 2], [0, 1, 2, 3, 4], 0, 2),
        ([2, 4, 6], [0, 1, 2, 3, 4, 5, 6], 3, 3),
        ([2, 4, 6], [0, 1, 2, 3, 4, 5, 6], 50, 0),
    ],
)
def test_a_step_is_forgotten_when_two_checkpoints_cover_it_and_enough_steps_came_after(
    saved: list[int], finished: list[int], keep_steps: int, last: int
) -> None:
    assert last_to_forget(saved, finished, keep_steps=keep_steps) == last


def with_saves(said: list[Any], every: int = 2) -> list[Any]:
    """A checkpoint after every second step."""
    found = []
    for event in said:
        found.append(event)
        step = getattr(event, "step", 0)
        if event.name.startswith("step.finished") and step and step % every == 0:
            saved = StepSaved(
                org="local", run_id="r1", attempt=1, step=step, key=f"k{step}", policy=PolicyRef(version=step)
            )
            found.append(saved)
    return found


async def own(recording: Any, max_lag: int) -> None:
    spec = RunSpec(
        org="local", run_id="r1", algorithm="grpo", model="tiny", pool="tiny", seed=1, split="train",
        environment=EnvironmentSpec(id="local/e", version="v", digest="d", key="k"),
        train=TrainSpec(
            lora_rank=8, lora_alpha=8, learning_rate=1e-3, batch_size=2, max_length=64, save_every=2, steps=9,
            max_lag=max_lag,
        ),
    )  # fmt: skip
    await recording.store.put("runs/r1/spec.json", msgspec.json.encode(spec))


async def groups(bus: Any) -> set[int]:
    """The steps of whose groups something is in the stream."""
    return {told.event.step async for told in bus.history("flash.group.>") if isinstance(told.event, GroupEvent)}


async def test_groups_leave_the_stream_behind_two_checkpoints_and_are_found_as_before(
    recording: Any, facts: Any
) -> None:
    said = with_saves(facts().whole(steps=9, groups=2))
    await own(recording, max_lag=1)
    recorder = recording.recorder(segment_bytes=1, keep_steps=1)
    await recording.bus.answer("recorder", recorder.answers())
    watching = asyncio.create_task(recorder.watch())

    for event in said:
        await recording.bus.publish(event)
        await asyncio.sleep(0.005)
    async with asyncio.timeout(20.0):
        async for _ in recording.bus.replay(RecordClosed.pattern(org="local", run_id="r1")):
            break
    watching.cancel()
    await asyncio.wait({watching})

    assert await groups(recording.bus) == {7, 8, 9}
    others = [told.event async for told in recording.bus.history("flash.run.>", "flash.step.>")]
    assert others == [event for event in said if event.name.split(".")[0] in ("run", "step")]
    page = await recording.bus.ask(RolloutsFind(org="local", run_id="r1", limit=100), 30.0)
    assert page.total == 36
    events = (await recording.bus.ask(EventsFind(org="local", run_id="r1", nouns=["group"]))).events
    assert [event.subject for event in events] == [event.subject for event in said if isinstance(event, GroupEvent)]


async def test_groups_that_were_asked_for_together_with_later_ones_stay_until_those_go(
    recording: Any, facts: Any
) -> None:
    f = facts()
    await own(recording, max_lag=1)
    recorder = recording.recorder(keep_steps=0)
    mixed = [f.requested(3, 0), f.requested(2, 0), f.scored(2, 0), f.scored(3, 0)]
    said = [f.requested(1, 0), f.scored(1, 0), *mixed, *(f.finished(step, 1) for step in (0, 1, 2, 3))]
    saves = [StepSaved(org="local", run_id="r1", attempt=1, step=step, key="k", policy=PolicyRef()) for step in (2, 3)]
    await recording.bus.publish(*said, *saves)

    await recorder.writer._trimmer.trim("local", "r1", written=100)

    assert await groups(recording.bus) == {2, 3}, "of step 2 nothing stands before the first word about step 3"


async def test_nothing_leaves_the_stream_that_is_not_written_down(recording: Any, facts: Any) -> None:
    await own(recording, max_lag=0)
    recorder = recording.recorder(keep_steps=0)
    said = with_saves(facts().whole(steps=6, groups=1))
    await recording.bus.publish(*said)

    await recorder.writer._trimmer.trim("local", "r1", written=3)

    assert await groups(recording.bus) == {1, 2, 3, 4, 5, 6}
    left = [told.event async for told in recording.bus.history("flash.group.>")]
    assert left == [event for event in said[3:] if isinstance(event, GroupEvent)]


async def test_the_groups_of_evaluations_that_are_summed_up_leave_the_stream_but_for_the_newest_two(
    recording: Any, facts: Any
) -> None:
    f = facts()
    recorder = recording.recorder()
    for step in (0, 2, 4, 6):
        await recording.bus.publish(
            *(f.scored(step, group, scope="eval") for group in range(2)),
            RunEvaluated(org="local", run_id="r1", step=step, metrics={}),
        )

    await recorder.writer._trimmer.trim("local", "r1", written=3)
    assert await groups(recording.bus) == {2, 4, 6}, "what is not written stays"
    await recorder.writer._trimmer.trim("local", "r1", written=100)
    assert await groups(recording.bus) == {4, 6}
