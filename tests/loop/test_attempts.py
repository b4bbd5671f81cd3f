"""A run that was stopped goes on where it was, and policies are evaluated on the way."""

import asyncio
from pathlib import Path
from typing import Any, TypeVar, cast

import msgspec

from flash.bus.memory import MemoryBus
from flash.contracts.base import Event
from flash.contracts.groups import GroupScored
from flash.contracts.requests import RunCancel, RunGet, RunResume, RunSubmit
from flash.contracts.runs import RunCancelled, RunCompleted, RunEvaluated, RunStarted
from flash.contracts.spec import SamplingSpec, TrainSpec
from flash.contracts.steps import StepFinished
from flash.models import folder
from services.learner.policy import Base
from services.learner.service import Learner
from services.learner.settings import Settings as LearnerSettings
from tests.tiny_runs import ended, grpo, published

SORTING = Path(__file__).parent / "sorting"
STEPS = 4

E = TypeVar("E", bound=Event)


async def heard(bus: MemoryBus, pattern: str, within_s: float = 60.0) -> Event:
    async with asyncio.timeout(within_s):
        async for told in bus.replay(pattern):
            return told.event
    raise AssertionError("a replay never ends")


async def said(bus: MemoryBus, kind: type[E]) -> list[E]:
    return [cast("E", told.event) async for told in bus.history(kind.pattern())]


async def replayed(recorded: MemoryBus) -> str:
    """The adapter that the run's groups give to a learner that nobody disturbs, by its digest."""
    bus = MemoryBus(recorded.store)
    await bus.publish(*[group for group in await said(recorded, GroupScored) if group.scope == "train"])
    [started, *_] = await said(recorded, RunStarted)
    base = await asyncio.to_thread(Base.load, folder("tiny", Path()), "tiny", "cpu")
    learner = Learner(bus, bus.store, base, lambda *_: ([], []), LearnerSettings(), "tiny")
    told = [event async for event in learner.on_run_started(started)]
    return next(event.policy.digest for event in reversed(told) if isinstance(event, StepFinished))


async def test_a_cancelled_run_is_resumed_and_gives_the_adapter_that_its_groups_give_undisturbed(
    running: Any, tmp_path: Path
) -> None:
    async with running(tmp_path) as bus:
        spec = grpo(await published(bus, SORTING), steps=STEPS, max_lag=1, save_every=1)
        run = {"org": spec.org, "run_id": spec.run_id}
        await bus.ask(RunSubmit(spec=spec))
        await heard(bus, StepFinished.pattern(**run, step=1))
        await bus.ask(RunCancel(**run))
        await heard(bus, RunCancelled.pattern(**run), within_s=2.0)
        await asyncio.sleep(0.2)
        state = await bus.ask(RunResume(**run, attempt=2))
        again = await bus.ask(RunResume(**run, attempt=2))
        assert isinstance(await ended(bus, spec), RunCompleted)
        steps = await said(bus, StepFinished)

        assert (state.state, state.attempt, again.attempt) == ("queued", 2, 2)
        assert [step.step for step in steps] == list(range(STEPS + 1))
        assert [started.attempt for started in await said(bus, RunStarted)] == [1, 2]
        assert await replayed(bus) == steps[-1].policy.digest
        line = await bus.ask(RunGet(**run))
        assert (line.state, line.attempt, line.waiting_for) == ("done", 2, "")


async def test_policies_are_evaluated_on_their_split_while_the_run_goes_on(running: Any, tmp_path: Path) -> None:
    async with running(tmp_path) as bus:
        spec = grpo(await published(bus, SORTING), steps=STEPS)
        once = SamplingSpec(group_size=1, temperature=1.0, max_tokens=8)
        train = msgspec.structs.replace(
            cast("TrainSpec", spec.train), eval_every=2, eval_split="train", eval_sampling=once
        )
        assert isinstance(await ended(bus, msgspec.structs.replace(spec, train=train)), RunCompleted)
        told = await said(bus, RunEvaluated)
        groups = [group for group in await said(bus, GroupScored) if group.scope == "eval"]

    assert [evaluated.step for evaluated in told] == [0, 2, 4]
    rows = len((SORTING / "dataset" / "train.jsonl").read_text().splitlines())
    assert all(evaluated.metrics["rollouts"] == rows for evaluated in told), "one rollout a row"
    assert {(group.step, group.policy.version) for group in groups} == {(0, 0), (2, 2), (4, 4)}
