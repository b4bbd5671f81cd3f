"""Shows runs on Weights & Biases, where their configs ask for it: each through a process of its own.

Nothing waits for W&B. Steps are read from the stream at the pace at which it takes them, and where it is down, they
stay there until it is up again.
"""

import asyncio
import contextlib
import os
import signal
import sys
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import structlog

from flash.bus import Bus, Shared
from flash.contracts.base import Event
from flash.contracts.keys import sealed_key, spec_key
from flash.contracts.runs import RunCancelled, RunCompleted, RunEvaluated, RunFailed, RunStarted
from flash.contracts.spec import RunSpec
from flash.contracts.steps import StepFinished
from flash.errors import CannotOpen, NoSuchObject
from flash.secrets import KeyPair, of_run
from flash.store import Store
from services.recorder.settings import Settings

KEY = "WANDB_API_KEY"
ENDS = (RunCompleted, RunFailed, RunCancelled)
KEPT = ("PATH", "LANG", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR")
"""Of this process's environment: nothing of ours is W&B's business."""

log = structlog.get_logger()


class Boards:
    """The runs that this recorder shows."""

    def __init__(self, bus: Bus, store: Store, keys: KeyPair, settings: Settings) -> None:
        self._bus = bus
        self._store = store
        self._keys = keys
        self._settings = settings

    def subscriptions(self) -> tuple[Shared, ...]:
        """A run is shown by one recorder; when that dies, by another."""
        return (
            Shared(
                "recorder-boards", RunStarted, self.on_run_started, slots=self._settings.max_boards, max_deliveries=0
            ),
        )

    async def on_run_started(self, event: RunStarted) -> list[Event]:
        """Lasts until the attempt is over and W&B has all of it, or has been given up."""
        spec = msgspec.json.decode(await self._store.get(spec_key(event.run_id)), type=RunSpec)
        if spec.wandb is None or (key := await self._key(spec)) is None:
            return []
        told = described(spec) | {
            "api_key": key, "base_url": self._settings.wandb_url, "within_s": self._settings.board_begin_s,
        }  # fmt: skip
        over = asyncio.create_task(self._over(event))
        try:
            await self._show(event, told, over)
        finally:
            over.cancel()
        return []

    async def _show(self, event: RunStarted, told: Mapping[str, Any], over: asyncio.Task[float]) -> None:
        """Try until it is shown; once the run is over, only for a while longer."""
        now, wait_s, pause_s = asyncio.get_running_loop().time, self._settings.board_wait_s, 1.0
        while not over.done() or now() < over.result() + wait_s:
            if await self._shown(event, told):
                return
            await asyncio.sleep(pause_s)
            pause_s = min(60.0, 2 * pause_s)
        log.warning("board.given-up", run_id=event.run_id, after_s=wait_s)

    async def _shown(self, event: RunStarted, told: Mapping[str, Any]) -> bool:
        """Whether there is nothing more to do: W&B has everything, or does not want it."""
        async with _process(self._settings.home / "boards") as process:
            try:
                await _tell(process, told)
                begun = await _heard(process)
                if "begun" in begun:
                    log.info("board.begun", run_id=event.run_id, url=begun["begun"])
                    await self._tell_steps(event, process)
                    async with asyncio.timeout(self._settings.board_wait_s):
                        return await process.wait() == 0
            except (BrokenPipeError, ConnectionResetError, TimeoutError):
                begun = {"failed": "its process ended, or took too long"}
            reason = begun.get("refused") or begun.get("failed") or "its process said nothing"
            log.warning("board.failed", run_id=event.run_id, reason=reason)
            return "refused" in begun

    async def _tell_steps(self, event: RunStarted, process: asyncio.subprocess.Process) -> None:
        """Every step of the run from the first on, and the end of this attempt.

        W&B takes steps in their order only. An evaluation is told with the step that was finished next, and says
        itself which policy it is about.
        """
        evaluated: dict[str, float] = {}
        step = 0
        async with aclosing(self._facts(event, StepFinished, RunEvaluated, *ENDS)) as facts:
            async for fact in facts:
                if isinstance(fact, RunEvaluated):
                    evaluated |= evaluation(fact)
                elif not isinstance(fact, StepFinished):
                    if evaluated and isinstance(fact, RunCompleted):  # of one that is resumed, it comes with a step
                        await _tell(process, {"step": step + 1, "metrics": evaluated})
                    await _tell(process, ending(fact))
                    return
                elif shown := figures(fact):
                    step = fact.step
                    await _tell(process, {"step": step, "metrics": shown | evaluated})
                    evaluated = {}

    async def _over(self, event: RunStarted) -> float:
        """Waits for the end of this attempt; gives the loop's time then."""
        async with aclosing(self._facts(event, *ENDS)) as facts:
            async for _ in facts:
                break
        return asyncio.get_running_loop().time()

    async def _facts(self, event: RunStarted, *kinds: type[Event]) -> AsyncGenerator[Event, None]:
        """What is said of a run, without the ends of attempts before this one."""
        patterns = [kind.pattern(org=event.org, run_id=event.run_id) for kind in kinds]
        async with aclosing(self._bus.replay(*patterns)) as said:  # type: ignore[type-var]
            async for told in said:
                if not isinstance(told.event, ENDS) or told.event.attempt >= event.attempt:
                    yield told.event

    async def _key(self, spec: RunSpec) -> str | None:
        try:
            sealed = await self._store.get(sealed_key(spec.run_id, "recorder"))
            return self._keys.open(sealed, of_run(spec.org, spec.run_id)).get(KEY)
        except NoSuchObject:
            return None  # submitted without one, and told so
        except CannotOpen as error:
            log.warning("board.failed", run_id=spec.run_id, reason=str(error))
            return None


def described(spec: RunSpec) -> dict[str, Any]:
    """What W&B is told of a run."""
    assert spec.wandb is not None
    plain: dict[str, Any] = msgspec.to_builtins(spec)
    shown = ("algorithm", "model", "reference", "seed", "split", "thinking", "environment", "train", "sampling")
    return {
        "run_id": spec.run_id,
        "project": spec.wandb.project,
        "name": spec.wandb.run_name or spec.name or spec.run_id,
        "tags": spec.tags,
        "note": spec.note,
        "config": {name: plain[name] for name in shown},
    }


def figures(step: StepFinished) -> dict[str, float]:
    """A step's metrics; none where nothing was learned yet."""
    rollouts = {"rollouts": float(step.rollouts), "faults": float(step.faults)} if step.rollouts else {}
    return {**step.metrics, **rollouts}


def evaluation(event: RunEvaluated) -> dict[str, float]:
    """The figures of an evaluation, and of which policy."""
    told = {name: value for name, value in event.metrics.items() if isinstance(value, int | float)}
    named = {f"metric/{name}": spread["mean"] for name, spread in (event.metrics.get("metrics") or {}).items()}
    return {"eval/step": float(event.step), **{f"eval/{name}": float(value) for name, value in (told | named).items()}}


def ending(event: Event) -> dict[str, Any]:
    """W&B knows ends that are well and ends that are not."""
    state = {RunCompleted: "done", RunFailed: "failed", RunCancelled: "cancelled"}[type(event)]
    reason = event.reason if isinstance(event, RunFailed) else ""
    return {"exit_code": int(state != "done"), "summary": {"state": state, "reason": reason}}


@asynccontextmanager
async def _process(folder: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """Gone with all its children, and with its files, when the block ends."""
    os.makedirs(folder, mode=0o700, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, ignore_cleanup_errors=True) as own:
        kept = {name: os.environ[name] for name in KEPT if name in os.environ}
        own_places = dict.fromkeys(("HOME", "TMPDIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"), own)
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-m", "services.recorder.wandb_run",
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True, cwd=own, env=kept | own_places | {"WANDB_ERROR_REPORTING": "false"},
        )  # fmt: skip
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()


async def _tell(process: asyncio.subprocess.Process, told: Mapping[str, Any]) -> None:
    assert process.stdin is not None
    process.stdin.write(msgspec.json.encode(told) + b"\n")
    await process.stdin.drain()


async def _heard(process: asyncio.subprocess.Process) -> dict[str, str]:
    """Its first words; none where it died without any."""
    assert process.stdout is not None
    line = await process.stdout.readline()
    return msgspec.json.decode(line, type=dict[str, str]) if line else {}
