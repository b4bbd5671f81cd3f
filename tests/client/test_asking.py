"""Asking a service that may still be starting: flash/client/asking.py, flash/client/connection.py."""

import asyncio

import pytest

from flash.bus.memory import MemoryBus
from flash.client.asking import ask, runs
from flash.client.connection import connect
from flash.contracts.requests import RunCancel, RunList, RunListing, RunState
from flash.errors import BusError, NobodyAnswers, NotFound

STATE = RunState(
    run_id="r", state="done", algorithm="sft", model="tiny", environment="local/x", submitted_at=1.0, step=1, steps=1
)


async def listing(request: RunList) -> RunListing:
    return RunListing(runs=[STATE])


async def test_a_service_that_is_still_starting_is_waited_for_and_that_is_said_once() -> None:
    bus = MemoryBus()
    said: list[str] = []
    asking = asyncio.create_task(ask(bus, RunList(org="local"), timeout_s=0.05, pause_s=0.01, say=said.append))
    await asyncio.sleep(0.3)

    await bus.answer("scheduler", {RunList: listing})

    assert await asyncio.wait_for(asking, 5) == RunListing(runs=[STATE])
    assert len(said) == 1
    assert said[0].startswith("waiting for the scheduler: ")


async def test_patience_ends_and_the_error_names_who_did_not_answer() -> None:
    with pytest.raises(
        NobodyAnswers, match=r"scheduler did not answer run.list within 0.1 s .*`flash ps` shows what runs"
    ):
        await ask(MemoryBus(), RunList(org="local"), timeout_s=0.05, patience_s=0.1, pause_s=0.01)


async def test_what_a_service_raises_is_raised_at_once() -> None:
    bus = MemoryBus()

    async def refuse(request: RunCancel) -> RunState:
        raise NotFound("there is no run x")

    await bus.answer("scheduler", {RunCancel: refuse})

    with pytest.raises(NotFound, match="there is no run x"):
        await ask(bus, RunCancel(org="local", run_id="x"))


async def test_runs_are_listed() -> None:
    bus = MemoryBus()
    await bus.answer("scheduler", {RunList: listing})

    assert await runs(bus) == [STATE]


async def test_without_a_stack_the_way_to_one_is_named() -> None:
    with pytest.raises(BusError, match="no stack is running here: start one with `flash up`, or name one in FLASH_URL"):
        await connect(lambda: None, {})
