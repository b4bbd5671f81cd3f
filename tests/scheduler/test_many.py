"""A thousand finished runs are no burden for whoever asks."""

import asyncio
import time

import msgspec

from flash.bus.memory import MemoryBus
from flash.contracts.base import Event
from flash.contracts.requests import RunGet, RunList
from flash.contracts.runs import RunCompleted, RunSubmitted
from services.scheduler.service import Scheduler
from services.scheduler.settings import Settings
from tests.scheduler.said import spec

RUNS = 1_000


def told(number: int) -> list[Event]:
    run_id = f"flash-{number}-00000000"
    return [
        RunSubmitted(
            org="local", run_id=run_id, spec=msgspec.structs.replace(spec(), run_id=run_id), submitted_at=float(number)
        ),
        RunCompleted(org="local", run_id=run_id, metrics={"reward": 0.5}),
    ]


async def test_a_thousand_finished_runs_are_listed_and_asked_for_at_once() -> None:
    bus = MemoryBus()
    for number in range(RUNS):
        await bus.publish(*told(number))
    scheduler = Scheduler(bus, bus.store, Settings(), now=lambda: 1.0)
    await bus.answer("scheduler", scheduler.answers())
    watching = asyncio.create_task(scheduler.watch())
    newest = await bus.ask(RunList(org="local", limit=1))

    began = time.process_time()
    pages = [await bus.ask(RunList(org="local", offset=offset)) for offset in (0, 500)]
    one = await bus.ask(RunGet(org="local", run_id="flash-500-00000000"))
    took_s = time.process_time() - began
    watching.cancel()

    assert (newest.runs[0].run_id, newest.total) == (f"flash-{RUNS - 1}-00000000", RUNS)
    assert [len(page.runs) for page in pages] == [500, 500]
    assert (one.state, one.step, one.waiting_for) == ("done", 0, "")
    assert took_s < 0.3
