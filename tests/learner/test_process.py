"""Learners as processes on a real server, each killed where it matters, and the last one finishes."""

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from flash.bus import Bus
from flash.bus.jetstream import connect
from flash.bus.memory import MemoryBus
from flash.bus.server import NatsServer
from flash.contracts.base import Event
from flash.contracts.keys import spec_key
from flash.contracts.steps import StepClaimed, StepFinished, StepSaved
from flash.models import folder
from flash.store import Store
from flash.store.files import FileStore
from services.learner.policy import Base
from services.learner.service import Learner
from services.learner.settings import Settings

pytestmark = pytest.mark.slow
STEPS = 4


async def ask(bus: Bus, store: Store, make: Any) -> None:
    """Submit a run whose groups are all scored."""
    spec = replace(make.spec(run_id="run"), model="tiny", pool="tiny")
    await store.put(spec_key("run"), msgspec.json.encode(spec))
    groups = [make.scored(group, (1.0, 0.0, 0.5), step=step) for step in range(1, STEPS + 1) for group in (0, 1)]
    await bus.publish(*groups, make.started(spec, steps=STEPS))


async def heard(bus: Bus) -> list[Event]:
    """What is said until the run's last checkpoint is in the store."""
    said: list[Event] = []
    nouns = [kind.pattern(org="local", run_id="run") for kind in (StepClaimed, StepFinished, StepSaved)]
    async with asyncio.timeout(90):
        async for told in bus.replay(*nouns):
            said.append(told.event)
            if isinstance(told.event, StepSaved) and told.event.final:
                break
    return said


def digests(told: list[Event]) -> list[tuple[int, str]]:
    return [(event.step, event.policy.digest) for event in told if isinstance(event, StepFinished)]


async def undisturbed(make: Any, home: Path) -> list[Event]:
    bus = MemoryBus()
    base = Base.load(folder("tiny", home), "tiny", "cpu")
    learner = Learner(bus, bus.store, base, lambda example, thinking: ([], []), Settings(), "tiny")
    await bus.listen(*learner.subscriptions())
    await ask(bus, bus.store, make)
    told = await heard(bus)
    await bus.close()
    return told


async def start(server: NatsServer, home: Path, kill_at: str = "") -> asyncio.subprocess.Process:
    environment = {
        **os.environ,
        "FLASH_NATS_URL": server.url,
        "FLASH_STORE_URL": f"file://{home / 'store'}",
        "FLASH_HOME": str(home),
        "FLASH_MODEL": "tiny",
        "FLASH_KILL_AT": kill_at,
        "OMP_NUM_THREADS": "1",
    }
    return await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-m", "services.learner", env=environment, cwd=home
    )


async def test_learners_killed_one_after_another_end_with_the_adapter_of_an_undisturbed_run(
    make: Any, tmp_path: Path
) -> None:
    wanted = await undisturbed(make, tmp_path)
    async with NatsServer(tmp_path / "nats") as server:
        store = FileStore(tmp_path / "store")
        bus = await connect(server.url, store, name="test:1", ack_wait_s=2.0)
        await ask(bus, store, make)

        for kill_at in ("before-upload:2", "uploaded", "checkpoint-uploaded"):
            learner = await start(server, tmp_path, kill_at)
            assert await asyncio.wait_for(learner.wait(), 90) == -signal.SIGKILL
        learner = await start(server, tmp_path)
        told = await heard(bus)
        learner.terminate()
        assert await asyncio.wait_for(learner.wait(), 20) == 0
        await bus.close()

    assert digests(told) == digests(wanted)
    assert [event.attempt for event in told if isinstance(event, StepClaimed)] == [1, 2, 3, 4]
