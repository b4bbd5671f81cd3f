"""Asking a service that may still be starting: flash/client/asking.py, flash/client/connection.py."""

import asyncio

import pytest

from flash.bus.memory import MemoryBus
from flash.client.asking import ask, runs, with_params
from flash.client.connection import connect
from flash.contracts.hosting import CheckReport, EnvironmentCheck
from flash.contracts.requests import EnvironmentVersion, RunCancel, RunList, RunListing, RunState
from flash.contracts.values import Fault
from flash.errors import BusError, EnvironmentFault, NobodyAnswers, NotFound

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


async def test_more_runs_than_fit_into_an_answer_are_asked_for_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    bus, asked = MemoryBus(), []

    async def page(request: RunList) -> RunListing:
        asked.append((request.offset, request.limit))
        return RunListing(runs=[STATE] * min(request.limit, 5 - request.offset), total=5)

    await bus.answer("scheduler", {RunList: page})
    monkeypatch.setattr("flash.client.asking.LISTED", 2)

    assert len((await runs(bus)).runs) == 5
    assert [len((await runs(bus, most=most)).runs) for most in (1, 3, 9)] == [1, 3, 5]
    assert asked[:3] == [(0, 2), (2, 2), (4, 2)]


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

    assert (await runs(bus)).runs == [STATE]


VERSION = EnvironmentVersion(
    id="local/x", version="0" * 12, digest="0" * 64, key="k", packed_bytes=1, published_at=1.0, prompt_text="Be kind."
)


async def test_a_file_for_the_system_text_is_read_where_the_package_is() -> None:
    bus = MemoryBus()

    async def check(request: EnvironmentCheck) -> CheckReport:
        assert (request.key, request.params) == ("k", {"contract_path": "brief.md"})
        return CheckReport(prompt_text="Be brief.", rows={"train": 3})

    await bus.answer("scorer", {EnvironmentCheck: check})

    found = await with_params(bus, VERSION, {"contract_path": "brief.md"})

    assert (found.prompt_text, found.rows) == ("Be brief.", {"train": 3})


async def test_params_that_name_no_such_file_change_nothing() -> None:
    assert await with_params(MemoryBus(), VERSION, {"n": 3}) is VERSION
    assert await with_params(MemoryBus(), VERSION, {"contract_text": "a", "contract_path": "b"}) is VERSION


async def test_a_package_that_does_not_load_with_the_params_is_a_fault_of_the_environment() -> None:
    bus = MemoryBus()

    async def check(request: EnvironmentCheck) -> CheckReport:
        return CheckReport(fault=Fault(kind="load-failed", message="no such file", traceback="line 3\n"))

    await bus.answer("scorer", {EnvironmentCheck: check})

    with pytest.raises(EnvironmentFault, match=r"^local/x cannot be loaded: no such file\nline 3$"):
        await with_params(bus, VERSION, {"contract_path": "brief.md"})


async def test_without_a_stack_the_way_to_one_is_named() -> None:
    with pytest.raises(BusError, match="no stack is running here: start one with `flash up`, or name one in FLASH_URL"):
        await connect(lambda: None, {})
