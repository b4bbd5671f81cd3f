"""The scheduler on a bus: what it says, and that it goes on where the last one was."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import msgspec
import pytest

from flash.bus.memory import MemoryBus
from flash.contracts.base import Event
from flash.contracts.groups import GroupRequested
from flash.contracts.keys import dataset_key
from flash.contracts.requests import RunCancel, RunGet, RunList, RunResume, RunState, RunSubmit
from flash.contracts.runs import (
    DatasetPrepared,
    DatasetRequested,
    RunCancelled,
    RunCompleted,
    RunFailed,
    RunStarted,
    RunSubmitted,
)
from flash.contracts.spec import EnvironmentSpec, RunSpec, SamplingSpec, TrainSpec
from flash.contracts.steps import StepClaimed, StepFinished
from flash.contracts.values import Example, PolicyRef
from flash.errors import NotFound, Refused
from services.scheduler.service import Scheduler
from services.scheduler.settings import Settings
from tests.hubs import hub_of

E = TypeVar("E", bound=Event)

SPEC = RunSpec(
    org="local", run_id="r1", algorithm="grpo", model="tiny", pool="tiny", seed=1, split="train",
    environment=EnvironmentSpec(id="local/sort", version="abc", digest="abc", key="k"),
    sampling=SamplingSpec(group_size=2, temperature=1.0, max_tokens=8),
    train=TrainSpec(
        lora_rank=8, lora_alpha=16, learning_rate=1e-3, batch_size=2, max_length=64, save_every=5, steps=4, max_lag=0
    ),
)  # fmt: skip


@asynccontextmanager
async def scheduling(
    bus: MemoryBus,
    *,
    now: Callable[[], float] = time.time,
    free_bytes: int | None = None,
    withdrawn: str = "",
    **settings: Any,
) -> AsyncIterator[Scheduler]:
    await hub_of(bus, withdrawn)
    told = Settings(**{"look_s": 0.05, **settings})
    scheduler = Scheduler(bus, bus.store, told, now=now, free_bytes=lambda: free_bytes)
    await bus.answer("scheduler", scheduler.answers())
    tasks = [asyncio.create_task(scheduler.watch()), asyncio.create_task(scheduler.look_around())]
    try:
        yield scheduler
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def heard(bus: MemoryBus, kind: type[E], count: int = 1) -> list[E]:
    found = []
    async with asyncio.timeout(5):
        async for told in bus.replay(kind.pattern()):
            found.append(told.event)
            if len(found) == count:
                break
    return found  # type: ignore[return-value]


async def prepare(bus: MemoryBus, rows: int = 6) -> None:
    examples = [Example(index=i, id=f"e{i}", input=f"row {i}") for i in range(rows)]
    key = dataset_key(SPEC, 0)
    await bus.store.put(key, msgspec.msgpack.encode(examples))
    await bus.publish(DatasetPrepared(org="local", run_id="r1", chunk=0, rows=rows, key=key))


async def start_policy(bus: MemoryBus) -> None:
    await bus.publish(
        StepClaimed(org="local", run_id="r1", attempt=1, learner="l"),
        StepFinished(org="local", run_id="r1", attempt=1, step=0, policy=PolicyRef(digest="d0")),
    )


async def test_a_run_goes_from_submission_to_the_groups_of_its_first_step() -> None:
    bus = MemoryBus()
    async with scheduling(bus):
        state = await bus.ask(RunSubmit(spec=SPEC))
        await heard(bus, DatasetRequested)
        await prepare(bus)
        [started] = await heard(bus, RunStarted)
        await start_policy(bus)
        groups = await heard(bus, GroupRequested, 2)

    assert state.state == "queued"
    assert (started.steps, started.prompts_per_step, started.rows) == (4, 2, 6)
    assert {(g.step, g.group, g.policy.digest) for g in groups} == {(1, 0, "d0"), (1, 1, "d0")}
    assert all(group.example.input == f"row {group.example.index}" for group in groups)


async def test_a_run_submitted_twice_is_one_run() -> None:
    bus = MemoryBus()
    async with scheduling(bus):
        await bus.ask(RunSubmit(spec=SPEC))
        await bus.ask(RunSubmit(spec=SPEC))
        listing = await bus.ask(RunList(org="local"))

    assert [run.run_id for run in listing.runs] == ["r1"]
    assert len([told async for told in bus.history(RunSubmitted.pattern())]) == 1


async def test_a_run_whose_version_was_withdrawn_while_it_was_submitted_or_resumed_ends_at_once() -> None:
    bus = MemoryBus()
    async with scheduling(bus, withdrawn="abc"):
        await bus.ask(RunSubmit(spec=SPEC))
        [failed] = await heard(bus, RunFailed)
        await until(bus, "failed")
        await bus.ask(RunResume(org="local", run_id="r1", attempt=2))
        [_, again] = await heard(bus, RunFailed, 2)
        await until(bus, "failed")
        await bus.ask(RunSubmit(spec=SPEC))

    assert failed == RunFailed(org="local", run_id="r1", attempt=1, reason="local/sort@abc was withdrawn")
    assert again == msgspec.structs.replace(failed, attempt=2)
    assert len([told async for told in bus.history(RunFailed.pattern())]) == 2


async def test_a_scheduler_that_starts_anew_says_what_the_last_one_had_no_time_to_say() -> None:
    bus = MemoryBus()
    await bus.publish(RunSubmitted(org="local", run_id="r1", spec=SPEC, submitted_at=1.0))
    await prepare(bus)
    await start_policy(bus)

    async with scheduling(bus):
        groups = await heard(bus, GroupRequested, 2)

    assert {g.step for g in groups} == {1}


async def test_two_schedulers_say_one_thing() -> None:
    bus = MemoryBus()
    async with scheduling(bus), scheduling(bus.replica("other:2")):
        await bus.ask(RunSubmit(spec=SPEC))
        await prepare(bus)
        await start_policy(bus)
        await heard(bus, GroupRequested, 2)

    assert len([told async for told in bus.history(GroupRequested.pattern())]) == 2
    assert len([told async for told in bus.history(RunStarted.pattern())]) == 1


async def test_a_cancelled_run_is_cancelled_once() -> None:
    bus = MemoryBus()
    async with scheduling(bus):
        await bus.ask(RunSubmit(spec=SPEC))
        await heard(bus, DatasetRequested)
        await bus.ask(RunCancel(org="local", run_id="r1"))
        await heard(bus, RunCancelled)
        await asyncio.sleep(0.05)
        with pytest.raises(Refused, match="cancelled already"):
            await bus.ask(RunCancel(org="local", run_id="r1"))
        with pytest.raises(NotFound, match="no run r2"):
            await bus.ask(RunCancel(org="local", run_id="r2"))


async def test_somebody_elses_run_is_not_found() -> None:
    bus = MemoryBus()
    async with scheduling(bus):
        await bus.ask(RunSubmit(spec=SPEC))
        await heard(bus, DatasetRequested)
        with pytest.raises(NotFound):
            await bus.ask(RunCancel(org="other", run_id="r1"))
        assert (await bus.ask(RunList(org="other"))).runs == []


def named(run_id: str) -> RunSpec:
    return msgspec.structs.replace(SPEC, run_id=run_id)


async def asked(bus: MemoryBus, run_id: str = "r1") -> RunState:
    state: RunState = await bus.ask(RunGet(org="local", run_id=run_id))
    return state


async def until(bus: MemoryBus, what: str, run_id: str = "r1") -> RunState:
    """The run, once it is in that state, or waits for that."""
    async with asyncio.timeout(5):
        while True:
            state = await asked(bus, run_id)
            if what in (state.state, state.waiting_for) or what in state.waiting_for:
                return state
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("state", ["queued", "planning", "running"])
async def test_a_run_is_cancelled_within_seconds_whatever_it_waits_for(state: str) -> None:
    bus = MemoryBus()
    async with scheduling(bus, max_org_runs=1):
        if state == "queued":
            await bus.ask(RunSubmit(spec=named("before")))
            await heard(bus, DatasetRequested)
        await bus.ask(RunSubmit(spec=SPEC))
        if state == "running":
            await prepare(bus)
            await start_policy(bus)
        await until(bus, state)
        began = time.monotonic()
        await bus.ask(RunCancel(org="local", run_id="r1"))
        await heard(bus, RunCancelled)
        found = await until(bus, "cancelled")

    assert time.monotonic() - began < 1.0
    assert (found.reason, found.waiting_for) == ("cancelled by request", "")


async def test_a_run_over_the_limit_waits_its_turn_and_goes_on_when_it_comes() -> None:
    bus = MemoryBus()
    async with scheduling(bus, max_org_runs=1):
        for run_id in ("first", "second", "third"):
            await bus.ask(RunSubmit(spec=named(run_id)))
        await heard(bus, DatasetRequested)
        waiting = [await until(bus, f"position {place}", run_id) for run_id, place in (("second", 1), ("third", 2))]
        await bus.ask(RunCancel(org="local", run_id="first"))
        requested = await heard(bus, DatasetRequested, 2)
        await until(bus, "position 1", "third")

    assert [(run.state, run.position) for run in waiting] == [("queued", 1), ("queued", 2)]
    assert [event.run_id for event in requested] == ["first", "second"]


async def test_nothing_begins_on_a_full_disk_and_the_run_says_so() -> None:
    bus = MemoryBus()
    async with scheduling(bus, free_bytes=2**20):
        await asyncio.sleep(0.6)  # it has looked
        await bus.ask(RunSubmit(spec=SPEC))
        found = await until(bus, "disk")

    assert found.state == "queued"
    assert await bus.last(DatasetRequested.pattern()) is None


async def test_a_run_that_takes_too_long_fails_with_that_reason_and_can_be_resumed() -> None:
    bus = MemoryBus()
    async with scheduling(bus, now=lambda: time.time() + 7200, max_wall_s=3600):
        await bus.ask(RunSubmit(spec=SPEC))
        await prepare(bus)
        [failed] = await heard(bus, RunFailed)
        await until(bus, "failed")
        again = await bus.ask(RunResume(org="local", run_id="r1", attempt=2))
        same = await bus.ask(RunResume(org="local", run_id="r1", attempt=2))

    assert failed.reason.startswith("it has run for longer than 1 h, which this platform allows")
    assert (again.state, again.attempt, again.reason) == ("queued", 2, "")
    assert same.attempt == 2


async def test_what_goes_on_or_is_done_is_not_resumed() -> None:
    bus = MemoryBus()
    async with scheduling(bus):
        await bus.ask(RunSubmit(spec=SPEC))
        await until(bus, "planning")
        with pytest.raises(Refused, match="run r1 is planning: there is nothing to resume"):
            await bus.ask(RunResume(org="local", run_id="r1", attempt=2))
        await bus.publish(RunCompleted(org="local", run_id="r1"))
        await until(bus, "done")
        with pytest.raises(Refused, match=r"r1 is done and is not reopened: fork it.*init_from_adapter"):
            await bus.ask(RunResume(org="local", run_id="r1", attempt=2))
        with pytest.raises(NotFound):
            await bus.ask(RunResume(org="other", run_id="r1", attempt=2))


async def test_what_cannot_be_stored_is_tried_again_and_the_run_says_why_it_waits() -> None:
    bus = MemoryBus()
    async with scheduling(bus):
        await bus.ask(RunSubmit(spec=SPEC))
        key = dataset_key(SPEC, 0)
        await bus.publish(DatasetPrepared(org="local", run_id="r1", chunk=0, rows=6, key=key))  # and it is not there
        await start_policy(bus)
        await until(bus, "storage, which says: ")
        examples = [Example(index=i, id=f"e{i}", input=f"row {i}") for i in range(6)]
        await bus.store.put(key, msgspec.msgpack.encode(examples))
        assert len(await heard(bus, GroupRequested, 2)) == 2
        await until(bus, "a rollout of pool tiny, and none is running")


async def test_the_spec_that_is_kept_says_what_the_platform_decides() -> None:
    bus = MemoryBus()
    async with scheduling(bus, max_wall_s=60, max_retries=2):
        await bus.ask(RunSubmit(spec=SPEC))
        [submitted] = await heard(bus, RunSubmitted)

    assert (submitted.spec.platform.wall_clock_s, submitted.spec.platform.retries) == (60, 2)
