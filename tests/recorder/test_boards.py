"""Runs on Weights & Biases: the real client, against a server of this process that speaks as W&B does."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest
from structlog.testing import capture_logs

from flash.bus.memory import MemoryBus
from flash.contracts.base import Event
from flash.contracts.hosting import SealingKey
from flash.contracts.keys import sealed_key, spec_key
from flash.contracts.requests import RecorderKey
from flash.contracts.runs import RunCancelled, RunCompleted, RunEvaluated, RunFailed, RunStarted
from flash.contracts.spec import EnvironmentSpec, RunSpec, TrainSpec, WandbSpec
from flash.contracts.steps import StepFinished
from flash.contracts.values import PolicyRef
from flash.secrets import of_run, seal
from services.recorder.boards import ending, evaluation, figures
from services.recorder.service import Recorder
from services.recorder.settings import Settings
from tests.recorder.fake_wandb import FakeWandb

CANARY = "c0ffee" * 6 + "beef"
SPEC = RunSpec(
    org="local", run_id="flash-1-0000abcd", algorithm="sft", model="tiny", pool="tiny", seed=1, split="train",
    environment=EnvironmentSpec(id="local/e", version="v", digest="d", key="k"), tags=["first"], note="Why not?",
    train=TrainSpec(lora_rank=8, lora_alpha=16, learning_rate=1e-3, batch_size=2, max_length=64, save_every=2),
    wandb=WandbSpec(project="mine"),
)  # fmt: skip
STARTED = RunStarted(
    org="local", run_id=SPEC.run_id, pool="tiny", attempt=1, steps=3, prompts_per_step=2, rows=4
)  # fmt: skip
COMPLETED = RunCompleted(org="local", run_id=SPEC.run_id)


def finished(step: int) -> StepFinished:
    metrics = {"loss": 1 / step, "epoch": step / 2} if step else {}
    return StepFinished(
        org="local", run_id=SPEC.run_id, attempt=1, step=step, policy=PolicyRef(version=step), metrics=metrics
    )


def evaluated(step: int) -> RunEvaluated:
    metrics = {"reward": 0.5, "success": None, "metrics": {"exact": {"mean": 0.25, "std": 0.1}}}
    return RunEvaluated(org="local", run_id=SPEC.run_id, step=step, metrics=metrics)


@asynccontextmanager
async def showing(
    home: Path, wandb: FakeWandb, spec: RunSpec = SPEC, key: str = CANARY, **settings: Any
) -> AsyncIterator[MemoryBus]:
    """A recorder that shows runs, and one that was submitted with a key."""
    bus = MemoryBus()
    recorder = Recorder(bus, bus.store, Settings(home=home, wandb_url=wandb.url, **settings), now=lambda: 1.0)
    await bus.answer("recorder", recorder.answers())
    fetched: SealingKey = await bus.ask(RecorderKey())
    await bus.store.put(spec_key(spec.run_id), msgspec.json.encode(spec))
    if key:
        sealed = seal({"WANDB_API_KEY": key}, fetched.public, of_run(spec.org, spec.run_id))
        await bus.store.put(sealed_key(spec.run_id, "recorder"), sealed)
    await bus.listen(*recorder.subscriptions())
    try:
        yield bus
    finally:
        await bus.close(0)
        await recorder.close()


async def until(is_so: Callable[[], object], within_s: float = 30.0) -> None:
    async with asyncio.timeout(within_s):
        while not is_so():  # noqa: ASYNC110 - what is waited for happens in other processes
            await asyncio.sleep(0.02)


def contents(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in folder.rglob("*") if path.is_file()]


def children() -> list[psutil.Process]:
    def shows(process: psutil.Process) -> bool:
        try:
            return "services.recorder.wandb_run" in process.cmdline()
        except psutil.Error:  # it is ending
            return False

    return [process for process in psutil.Process().children() if shows(process)]


async def test_a_run_is_shown_and_its_key_is_nowhere_but_at_wandb(tmp_path: Path, wandb: FakeWandb) -> None:
    async with showing(tmp_path, wandb) as bus:
        await bus.publish(STARTED, finished(0), finished(1), evaluated(1), finished(2), evaluated(2))
        await until(lambda: wandb.told)
        environments = [str(p.environ()) + str(p.cmdline()) for p in psutil.Process().children(recursive=True)]
        files = contents(tmp_path)
        await bus.publish(finished(3), COMPLETED)
        await until(lambda: wandb.exit_code is not None)
        await until(lambda: not children())

    assert wandb.losses == [(1, 1.0), (2, 0.5), (3, 1 / 3)]
    assert [row.get("eval/step") for row in wandb.rows] == [None, 1, 2]
    assert (wandb.exit_code, wandb.summary["state"]) == (0, "done")
    assert (wandb.told["project"], wandb.told["displayName"]) == ("mine", SPEC.run_id)
    assert json.loads(wandb.told["config"])["model"] == {"value": "tiny"}
    assert len(environments) >= 2, "the client has a process of its own beside ours"
    assert not any(CANARY in environment for environment in environments)
    assert files
    assert not any(CANARY.encode() in file for file in files)
    assert list((tmp_path / "boards").iterdir()) == []


@pytest.mark.slow
async def test_one_that_dies_is_taken_up_and_nothing_is_shown_twice(tmp_path: Path, wandb: FakeWandb) -> None:
    async with showing(tmp_path, wandb) as bus:
        await bus.publish(STARTED, finished(0), finished(1))
        await until(lambda: wandb.losses)
        [process] = children()
        os.kill(process.pid, signal.SIGKILL)
        await bus.publish(finished(2), finished(3), COMPLETED)
        await until(lambda: wandb.exit_code is not None)

    assert wandb.losses == [(1, 1.0), (2, 0.5), (3, 1 / 3)]


@pytest.mark.slow
async def test_what_was_learned_while_wandb_was_down_is_shown_when_it_is_up(tmp_path: Path, wandb: FakeWandb) -> None:
    wandb.status = 503
    async with showing(tmp_path, wandb, board_begin_s=2.0) as bus:
        await bus.publish(STARTED, finished(0), finished(1))
        await until(children)
        [first] = children()
        await bus.publish(finished(2), COMPLETED)
        await until(lambda: children() and children() != [first])
        wandb.status = 200
        await until(lambda: wandb.exit_code is not None, 60)

    assert wandb.losses == [(1, 1.0), (2, 0.5)]


@pytest.mark.slow
async def test_a_key_that_wandb_refuses_is_not_tried_again(tmp_path: Path, wandb: FakeWandb) -> None:
    wandb.status = 401
    async with showing(tmp_path, wandb) as bus:
        with capture_logs() as logs:
            await bus.publish(STARTED, finished(0))
            await until(lambda: any(line["event"] == "board.failed" for line in logs))
            await asyncio.sleep(1.5)

            assert children() == []
    [failed] = [line for line in logs if line["event"] == "board.failed"]
    assert "returned error 401" in failed["reason"]


@pytest.mark.parametrize(
    ("spec", "key"), [(msgspec.structs.replace(SPEC, wandb=None), CANARY), (SPEC, "")], ids=["not asked for", "no key"]
)
async def test_nothing_is_told_of_other_runs(tmp_path: Path, wandb: FakeWandb, spec: RunSpec, key: str) -> None:
    async with showing(tmp_path, wandb, spec, key) as bus:
        await bus.publish(STARTED, finished(1), COMPLETED)
        await asyncio.sleep(0.2)

        assert children() == []
    assert wandb.asked == 0


@pytest.mark.parametrize(
    ("event", "told"),
    [
        (COMPLETED, {"exit_code": 0, "summary": {"state": "done", "reason": ""}}),
        (
            RunFailed(org="local", run_id="r", reason="too many faults"),
            {"exit_code": 1, "summary": {"state": "failed", "reason": "too many faults"}},
        ),
        (RunCancelled(org="local", run_id="r"), {"exit_code": 1, "summary": {"state": "cancelled", "reason": ""}}),
    ],
)
def test_how_a_run_ended_is_told(event: Event, told: dict[str, Any]) -> None:
    assert ending(event) == told


def test_an_evaluation_says_which_policy_it_is_about() -> None:
    assert evaluation(evaluated(4)) == {"eval/step": 4.0, "eval/reward": 0.5, "eval/metric/exact": 0.25}


@pytest.mark.slow
async def test_a_run_that_is_resumed_goes_on_where_it_was_shown(tmp_path: Path, wandb: FakeWandb) -> None:
    again = msgspec.structs.replace(STARTED, attempt=2)
    async with showing(tmp_path, wandb) as bus:
        await bus.publish(STARTED, finished(1), RunFailed(org="local", run_id=SPEC.run_id, reason="disk full"))
        await until(lambda: wandb.exit_code == 1)
        await bus.publish(again, finished(2), msgspec.structs.replace(COMPLETED, attempt=2))
        await until(lambda: wandb.exit_code == 0)

    assert wandb.losses == [(1, 1.0), (2, 0.5)]
    assert wandb.summary["state"] == "done"


def test_faults_are_figures_of_a_step_that_played() -> None:
    played = msgspec.structs.replace(finished(1), rollouts=8, faults=2)

    assert figures(played) == {"loss": 1.0, "epoch": 0.5, "rollouts": 8.0, "faults": 2.0}
    assert figures(finished(0)) == {}
