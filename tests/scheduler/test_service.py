"""The scheduler on a bus: what it says, and that it goes on where the last one was."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypeVar

import msgspec
import pytest

from flash.bus.memory import MemoryBus
from flash.contracts.base import Event
from flash.contracts.groups import GroupRequested
from flash.contracts.keys import dataset_key
from flash.contracts.requests import RunCancel, RunList, RunSubmit
from flash.contracts.runs import DatasetPrepared, DatasetRequested, RunCancelled, RunStarted, RunSubmitted
from flash.contracts.spec import EnvironmentSpec, RunSpec, SamplingSpec, TrainSpec
from flash.contracts.steps import StepClaimed, StepFinished
from flash.contracts.values import Example, PolicyRef
from flash.errors import NotFound, Refused
from services.scheduler.service import Scheduler
from services.scheduler.settings import Settings

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
async def scheduling(bus: MemoryBus) -> AsyncIterator[Scheduler]:
    scheduler = Scheduler(bus, bus.store, Settings(), now=lambda: 1.0)
    await bus.answer("scheduler", scheduler.answers())
    watching = asyncio.create_task(scheduler.watch())
    try:
        yield scheduler
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


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
