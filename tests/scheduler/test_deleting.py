"""A run that is deleted leaves nothing, and nothing is deleted that somebody needs."""

import asyncio
from collections.abc import AsyncIterator
from collections.abc import Set as AbstractSet
from typing import Any

import msgspec
import pytest

from flash.bus.memory import MemoryBus
from flash.contracts.groups import GroupRequested
from flash.contracts.keys import adapter_key, checkpoint_key, dataset_key, run_prefix
from flash.contracts.record import RecordClosed
from flash.contracts.requests import RunDelete, RunGet, RunList, RunResume, RunSubmit
from flash.contracts.runs import RunCancelled, RunCompleted, RunDeleted
from flash.contracts.spec import RunSpec
from flash.contracts.steps import StepFinished, StepSaved
from flash.contracts.values import Example, PolicyRef
from flash.errors import NobodyAnswers, NotFound, Refused, StoreError
from services.recorder.erasing import Eraser
from services.scheduler.service import Scheduler
from services.scheduler.settings import Settings
from tests.hubs import hub_of
from tests.scheduler.said import spec

SAVED = PolicyRef(version=4, key=adapter_key("r1", "d4"), digest="d4")
ROWS = {"split": "other"}
"""What a run needs in order to have rows of its own."""


def named(run_id: str, of: RunSpec | None = None, **more: Any) -> RunSpec:
    return msgspec.structs.replace(of or spec(), run_id=run_id, **more)


@pytest.fixture
async def bus() -> AsyncIterator[MemoryBus]:
    bus = MemoryBus()
    await hub_of(bus, "")
    scheduler = Scheduler(bus, bus.store, Settings(look_s=0.05), now=lambda: 1.0)
    watching = asyncio.create_task(scheduler.watch())
    await bus.answer("scheduler", scheduler.answers())
    await bus.listen(*scheduler.subscriptions(), *Eraser(bus, bus.store).subscriptions())
    yield bus
    watching.cancel()
    await bus.close(0)


async def ended(bus: MemoryBus, of: RunSpec, *, closed: bool = True, cancelled: bool = False) -> None:
    """A run that has left something of every kind."""
    where = {"org": of.org, "run_id": of.run_id}
    await bus.ask(RunSubmit(spec=of, sealed={"scorer": b"sealed"}))
    policy = msgspec.structs.replace(SAVED, key=adapter_key(of.run_id, "d4"))
    for key in (
        f"{policy.key}/adapter_model.safetensors", f"{checkpoint_key(of.run_id, 4)}/manifest.json",
        f"{run_prefix(of.run_id)}record/rollouts/1-2.parquet", dataset_key(of, 0), dataset_key(of, 1),
    ):  # fmt: skip
        await bus.store.put(key, b"something")
    example = Example(index=0, id="e", input="x")
    word = RunCancelled(**where) if cancelled else RunCompleted(**where)
    await bus.publish(
        GroupRequested(**where, pool="tiny", attempt=1, scope="train", step=1, group=0, example=example, policy=SAVED),  # type: ignore[arg-type]
        StepFinished(**where, attempt=1, step=4, policy=policy),
        StepSaved(**where, attempt=1, step=4, key="c", policy=policy, final=True),
        word,
    )
    if closed:
        await bus.publish(RecordClosed(**where, upto=9))
    await until(bus, of.run_id, "cancelled" if cancelled else "done")


async def until(bus: MemoryBus, run_id: str, state: str) -> None:
    for _ in range(500):
        if (await bus.ask(RunGet(org="local", run_id=run_id))).state == state:
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"{run_id} is not {state}")


async def left(bus: MemoryBus, run_id: str) -> tuple[list[str], list[str]]:
    """The keys under which something of a run lies, and the facts about it."""
    keys = [stat.key async for stat in bus.store.list(run_prefix(run_id))]
    told = [told.event async for told in bus.history("flash.>")]
    return keys, [event.name for event in told if getattr(event, "run_id", "") == run_id]


async def erased(bus: MemoryBus, run_id: str, rows_of_others: AbstractSet[str] = frozenset()) -> None:
    """Waits until nothing is left of a run, and of rows only those."""
    for _ in range(500):
        if await left(bus, run_id) == ([], [RunDeleted.name]) and not await datasets(bus) - rows_of_others:
            return
        await asyncio.sleep(0.01)
    assert (await left(bus, run_id), await datasets(bus)) == (([], [RunDeleted.name]), rows_of_others)


async def datasets(bus: MemoryBus) -> set[str]:
    return {stat.key async for stat in bus.store.list("datasets/")}


async def test_nothing_is_left_of_a_run_but_that_it_is_gone(bus: MemoryBus) -> None:
    await ended(bus, named("r1"))
    await ended(bus, named("r2", **ROWS))
    before = await left(bus, "r2")

    await bus.ask(RunDelete(org="local", run_id="r1"))

    await erased(bus, "r1", {dataset_key(named("r2", **ROWS), 0), dataset_key(named("r2", **ROWS), 1)})
    assert await left(bus, "r2") == before
    assert [run.run_id for run in (await bus.ask(RunList(org="local"))).runs] == ["r2"]
    with pytest.raises(NotFound, match="there is no run r1"):
        await bus.ask(RunGet(org="local", run_id="r1"))


async def test_a_run_is_deleted_once_however_often_that_is_asked_and_its_id_is_not_used_again(bus: MemoryBus) -> None:
    await ended(bus, named("r1"))

    for _ in range(2):
        await bus.ask(RunDelete(org="local", run_id="r1"))
    await erased(bus, "r1")

    with pytest.raises(Refused, match="the run r1 was deleted: submit it under another id"):
        await bus.ask(RunSubmit(spec=named("r1")))
    again = Scheduler(bus, bus.store, Settings(), now=lambda: 1.0)
    watching = asyncio.create_task(again.watch())
    with pytest.raises(Refused, match="was deleted"):
        await again.on_run_submit(RunSubmit(spec=named("r1")))
    watching.cancel()


async def test_rows_that_another_run_has_too_stay(bus: MemoryBus) -> None:
    await ended(bus, named("r1"))
    await ended(bus, named("r2"))
    both = await datasets(bus)

    await bus.ask(RunDelete(org="local", run_id="r1"))
    await erased(bus, "r1", both)
    assert await datasets(bus) == both

    await bus.ask(RunDelete(org="local", run_id="r2"))
    await erased(bus, "r2")


@pytest.mark.parametrize(
    ("point", "passes"), [("row-erased", 1), ("object-erased", 1), ("object-erased", 3), ("objects-erased", 1)]
)
async def test_whoever_breaks_off_in_the_middle_is_followed_by_whoever_begins_anew(
    bus: MemoryBus, monkeypatch: pytest.MonkeyPatch, point: str, passes: int
) -> None:
    passed = 0

    def broken(name: str) -> None:
        nonlocal passed
        passed += name == point
        if passed == passes and name == point:
            raise StoreError("the disk is away")

    await ended(bus, named("r1"))
    monkeypatch.setattr("flash.chaos.point", broken)

    await bus.ask(RunDelete(org="local", run_id="r1"))

    await erased(bus, "r1")
    assert passed > passes


async def test_a_run_that_is_not_over_is_not_deleted(bus: MemoryBus) -> None:
    await bus.ask(RunSubmit(spec=named("r1")))

    with pytest.raises(Refused, match=r"run r1 is \w+: `flash cancel r1` first"):
        await bus.ask(RunDelete(org="local", run_id="r1"))


async def test_a_run_whose_record_is_still_written_can_be_asked_about_again(bus: MemoryBus) -> None:
    await ended(bus, named("r1"), closed=False)
    with pytest.raises(NobodyAnswers, match="the record of r1 is not closed yet"):
        await bus.ask(RunDelete(org="local", run_id="r1"))

    await bus.publish(RecordClosed(org="local", run_id="r1", upto=9))
    await bus.ask(RunDelete(org="local", run_id="r1"))

    await erased(bus, "r1")


async def test_somebody_elses_run_is_not_found(bus: MemoryBus) -> None:
    await ended(bus, named("r1"))

    with pytest.raises(NotFound, match="there is no run r1"):
        await bus.ask(RunDelete(org="other", run_id="r1"))


async def test_what_a_live_run_starts_from_or_evaluates_stays_until_that_is_over(bus: MemoryBus) -> None:
    await ended(bus, named("r1"))
    await bus.ask(RunSubmit(spec=named("r2", spec(init_from_adapter=SAVED))))
    await bus.ask(RunSubmit(spec=named("r3", spec("eval"), policy=SAVED)))

    for run_id, does in (("r2", "starts from"), ("r3", "evaluates")):
        with pytest.raises(Refused, match=f"{run_id} is not over, and {does} r1: `flash cancel {run_id}` first"):
            await bus.ask(RunDelete(org="local", run_id="r1"))
        await bus.publish(RunCancelled(org="local", run_id=run_id))
        await until(bus, run_id, "cancelled")
    await bus.ask(RunDelete(org="local", run_id="r1"))

    await erased(bus, "r1", await datasets(bus))
    for run_id in ("r2", "r3"):
        with pytest.raises(NotFound, match="there is no run r1 to start from"):
            await bus.ask(RunResume(org="local", run_id=run_id, attempt=2))
    with pytest.raises(NotFound, match="there is no run r1 to start from"):
        await bus.ask(RunSubmit(spec=named("r4", spec(init_from_adapter=SAVED))))


async def test_a_run_with_a_checkpoint_of_its_own_is_resumed_without_what_it_began_with(bus: MemoryBus) -> None:
    await ended(bus, named("r1"))
    await ended(bus, named("r2", spec(init_from_adapter=SAVED)), cancelled=True)
    await bus.ask(RunDelete(org="local", run_id="r1"))
    await erased(bus, "r1", await datasets(bus))

    state = await bus.ask(RunResume(org="local", run_id="r2", attempt=2))

    assert state.attempt == 2
    with pytest.raises(Refused, match="run r2 is"):
        await bus.ask(RunDelete(org="local", run_id="r2"))
