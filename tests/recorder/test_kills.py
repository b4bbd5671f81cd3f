"""A real recorder on a real server, killed where it hurts: its record has neither gap nor double."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from flash.bus.jetstream import JetStreamBus, connect
from flash.bus.server import NatsServer
from flash.contracts.catalogue import kind_of
from flash.contracts.keys import sealed_key, spec_key
from flash.contracts.record import RecordClosed, RolloutsFind
from flash.contracts.spec import EnvironmentSpec, RunSpec, WandbSpec
from flash.contracts.steps import StepFinished
from flash.secrets import KeyPair, of_run, seal
from flash.store import Store, open_store
from services.recorder.parquet import Kind
from tests.recorder.fake_wandb import FakeWandb
from tests.records import recorded

STEPS, GROUPS = 12, 3
POINTS = ["planned:3", "segment-stored:4", "recorded:3"]


class Recorders:
    """Processes that write into one store, each started again when it dies."""

    def __init__(self, folder: Path, nats_url: str, bus: JetStreamBus, store: Store) -> None:
        self.folder, self.nats_url, self.bus, self.store = folder, nats_url, bus, store
        self.told: dict[str, str] = {}
        """Further settings of each."""
        self.deaths = 0
        self.parts: dict[str, asyncio.subprocess.Process] = {}
        self._keeping: list[asyncio.Task[None]] = []

    async def start(self, name: str, kill_at: str = "") -> None:
        await self._spawn(name, kill_at)
        self._keeping.append(asyncio.create_task(self._keep(name)))

    async def stop(self) -> None:
        for task in self._keeping:
            task.cancel()
        for part in self.parts.values():
            if part.returncode is None:
                part.kill()
            await part.wait()

    async def _spawn(self, name: str, kill_at: str) -> None:
        kept = {key: value for key, value in os.environ.items() if not key.startswith("FLASH_")}
        told = {
            "FLASH_NATS_URL": self.nats_url, "FLASH_STORE_URL": f"file://{self.folder / 'store'}",
            "FLASH_REPLICA": name, "FLASH_HOME": str(self.folder / name), "FLASH_SEGMENT_BYTES": "4000",
            "FLASH_SEGMENT_S": "0.5", "FLASH_SETTLE_S": "0",
        } | self.told | ({"FLASH_KILL_AT": kill_at} if kill_at else {})  # fmt: skip
        log = (self.folder / f"{name}.log").open("ab")
        self.parts[name] = await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-m", "services.recorder", env=kept | told, stdout=log, stderr=log
        )
        log.close()

    async def _keep(self, name: str) -> None:
        while True:
            code = await self.parts[name].wait()
            self.deaths += code == -signal.SIGKILL
            await self._spawn(name, "")

    async def closed(self, run_id: str) -> None:
        async with asyncio.timeout(90.0):
            async for _ in self.bus.replay(RecordClosed.pattern(org="local", run_id=run_id)):
                return

    async def rows(self, kind: Kind, run_id: str) -> list[dict[str, Any]]:
        return await recorded(self.store, kind, run_id)

    async def segments(self, run_id: str, kind: Kind) -> int:
        return len([stat async for stat in self.store.list(f"runs/{run_id}/record/{kind}/")])

    async def holds(self, run_id: str, said: list[Any]) -> None:
        events, rollouts = await self.rows("events", run_id), await self.rows("rollouts", run_id)
        assert [kind_of(row["subject"]).decode(row["body"]) for row in events] == said
        assert [row["sequence"] for row in events] == sorted({row["sequence"] for row in events})
        assert [(row["group_id"], row["index"]) for row in rollouts] == [
            (f"train-{step}-{group}", index)
            for step in range(1, STEPS + 1)
            for group in range(GROUPS)
            for index in (0, 1)
        ]
        assert {row["advantage"] for row in rollouts} == {0.0, *(step + 0.5 for step in range(1, STEPS + 1))}


@pytest.fixture
async def recorders(tmp_path: Path, server: NatsServer) -> AsyncIterator[Recorders]:
    store = await open_store(f"file://{tmp_path / 'store'}")
    bus = await connect(server.url, store, name="test")
    found = Recorders(tmp_path, server.url, bus, store)
    yield found
    await found.stop()
    await bus.close(0)


@pytest.mark.slow
async def test_recorders_that_die_where_it_hurts_write_every_fact_once(recorders: Recorders, facts: Any) -> None:
    said = {run_id: facts(run_id).whole(STEPS, GROUPS) for run_id in ("r1", "r2")}
    for number, point in enumerate(POINTS):
        await recorders.start(f"recorder-{number}", point)

    for both in zip(*said.values(), strict=True):
        await recorders.bus.publish(*both)
        await asyncio.sleep(0.02)

    for run_id, facts_of_run in said.items():
        await recorders.closed(run_id)
        await recorders.holds(run_id, facts_of_run)
    assert recorders.deaths == len(POINTS), "a kill point was never passed"


@pytest.mark.slow
async def test_a_recorder_that_dies_while_it_merges_leaves_one_segment_in_the_end(
    recorders: Recorders, facts: Any
) -> None:
    said = facts().whole(STEPS, GROUPS)
    await recorders.start("recorder-0", "segments-merged:1")
    for event in said:
        await recorders.bus.publish(event)
        await asyncio.sleep(0.02)

    await recorders.closed("r1")
    async with asyncio.timeout(60.0):
        while [await recorders.segments("r1", kind) for kind in ("events", "rollouts")] != [1, 1]:  # noqa: ASYNC110
            await asyncio.sleep(0.1)

    assert recorders.deaths == 1
    await recorders.holds("r1", said)


@pytest.mark.slow
async def test_a_run_goes_on_being_shown_on_wandb_when_its_recorder_is_killed(
    recorders: Recorders, facts: Any, wandb: FakeWandb
) -> None:
    spec = RunSpec(
        org="local", run_id="r1", algorithm="grpo", model="tiny", pool="tiny", seed=1, split="train",
        environment=EnvironmentSpec(id="local/e", version="v", digest="d", key="k"), wandb=WandbSpec(project="mine"),
    )  # fmt: skip
    recorders.told = {"FLASH_WANDB_URL": wandb.url, "FLASH_KEY_FILE": str(recorders.folder / "key")}
    key = seal({"WANDB_API_KEY": "k" * 40}, KeyPair.kept(recorders.folder / "key").public, of_run("local", "r1"))
    await recorders.store.put(spec_key("r1"), msgspec.json.encode(spec))
    await recorders.store.put(sealed_key("r1", "recorder"), key)
    started, *said = facts().whole(STEPS, 1)
    told = [msgspec.structs.replace(f, metrics={"loss": 1.0}) if isinstance(f, StepFinished) else f for f in said]
    await recorders.start("recorder-0")

    await recorders.bus.publish(started, *told[: len(told) // 2])
    async with asyncio.timeout(60.0):
        while not wandb.rows:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    recorders.parts["recorder-0"].kill()
    await recorders.bus.publish(*told[len(told) // 2 :])
    async with asyncio.timeout(120.0):
        while wandb.exit_code is None:  # noqa: ASYNC110
            await asyncio.sleep(0.1)

    assert [row["_step"] for row in wandb.rows] == list(range(STEPS + 1))
    assert wandb.exit_code == 0


@pytest.mark.slow
async def test_a_recorder_killed_at_any_moment_answers_again_with_every_rollout(
    recorders: Recorders, facts: Any
) -> None:
    said = facts().whole(STEPS, GROUPS)
    await recorders.store.put("runs/r1/spec.json", b'{"org":"local"}')
    await recorders.start("recorder-0")

    for number, event in enumerate(said):
        await recorders.bus.publish(event)
        if number % 20 == 10:
            await asyncio.sleep(0.3)
            recorders.parts["recorder-0"].kill()

    await recorders.closed("r1")
    await recorders.holds("r1", said)
    page = await recorders.bus.ask(RolloutsFind(org="local", run_id="r1", sort=["-reward"], limit=1), 60.0)
    assert (page.total, page.rollouts[0].step) == (2 * STEPS * GROUPS, STEPS)
    assert recorders.deaths >= 3
