"""Takes runs and trains them, each from its claim to its last checkpoint."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import msgspec
import structlog

from flash.bus import Bus, EveryReplica, Shared
from flash.contracts.base import Event, Request, Token
from flash.contracts.catalogue import noun_pattern
from flash.contracts.groups import GroupScored
from flash.contracts.keys import spec_key
from flash.contracts.runs import ENDS, AttemptEvent, RunResumed, RunStarted
from flash.contracts.spec import RunSpec
from flash.contracts.steps import StepClaimed, TrainingFailed
from flash.store import Store
from services.learner import machine
from services.learner.failures import CannotTrain, RunOver
from services.learner.gather import Groups
from services.learner.lessons import GoldLessons, GroupLessons, Lessons, Render
from services.learner.over import Over
from services.learner.policy import Base, Cut
from services.learner.recorded import Recorded, lost_to_memory
from services.learner.settings import Settings
from services.learner.training import Training

MAX_RAISES = 1_000
"""How often a handler may raise on one run: the scheduler, which counts takeovers, ends it long before."""
OUT_OF_MEMORY = "the machine's memory was full, and the kernel killed somebody: on with half the micro-batch"

log = structlog.get_logger()


class Learner:
    """One replica of a pool: those that have the same base model."""

    def __init__(self, bus: Bus, store: Store, base: Base, render: Render, settings: Settings, pool: Token) -> None:
        self._bus = bus
        self._store = store
        self._base = base
        self._render = render
        self._settings = settings
        self._pool = pool
        max_tokens = settings.max_tokens_per_forward or base.tokens_in(settings.forward_bytes)
        self._cut = Cut(max_tokens, settings.threads)
        self._turn = asyncio.Lock()
        self._at_work: dict[Over, RunStarted] = {}
        """What each invocation works at."""
        self._lost: dict[tuple[str, str], str] = {}
        """Why this replica lost a run."""
        self._claims = 0

    def subscriptions(self) -> tuple[Shared | EveryReplica, ...]:
        return (
            EveryReplica(ENDS, self.on_run_ended),
            Shared(
                name=f"learner-{self._pool}",
                event=RunStarted,
                handler=self.on_run_started,
                where={"pool": self._pool},
                slots=self._settings.max_runs,
                max_raises=MAX_RAISES,
                max_deliveries=0,
                give_up=self._give_up,
            ),
        )

    def answers(self) -> Mapping[type[Request], Callable[[Any], Any]]:
        return {}

    async def on_run_ended(self, event: AttemptEvent) -> None:
        for over, started in self._at_work.items():
            if (started.org, started.run_id) == (event.org, event.run_id) and started.attempt <= event.attempt:
                over.say()

    async def on_run_started(self, event: RunStarted) -> AsyncIterator[Event]:
        """Train the run, from where whoever had it before left it."""
        over = Over()
        self._at_work[over] = event
        try:
            if await self._has_ended(event):
                return
            spec = msgspec.json.decode(await self._store.get(spec_key(event.run_id)), type=RunSpec)
            if spec.train is None:
                return  # an evaluation
            claim = await self._claim(event)
            yield claim
            # Only now: after the claim nobody else can speak about the run's steps, so what is recorded is complete.
            recorded = await self._recorded(event)
            training = Training(
                store=self._store,
                base=self._base,
                turn=self._turn,
                spec=spec,
                started=event,
                attempt=claim.attempt,
                recorded=recorded,
                cut=self._cut.halved(recorded.memory_losses),
                over=over,
            )
            lessons: Lessons | None = None
            try:
                for fact in await training.start():
                    yield fact
                await self._check_groups(spec, event, training.done, recorded)
                lessons = self._lessons(spec, event, training.done, over)
                for step in range(training.done + 1, event.steps + 1):
                    coming = asyncio.ensure_future(over.unless(lessons.of_step(step)))
                    try:
                        while saved := await training.saved_before(coming):
                            for fact in saved:
                                yield fact
                        lesson = await coming
                    finally:
                        await _cancel(coming)
                    for fact in await training.step(step, lesson):
                        yield fact
                    await training.save()
                for fact in await training.flush():
                    yield fact
            except RunOver:
                log.info("run.left", run_id=event.run_id)
            except CannotTrain as error:
                log.warning("training.failed", run_id=event.run_id, reason=str(error))
                yield _failed(event, str(error))
            except Exception as error:
                self._lost[event.org, event.run_id] = f"{type(error).__name__}: {error}"
                raise
            finally:
                if lessons is not None:
                    await lessons.close()
                await training.close()
        finally:
            del self._at_work[over]

    async def _has_ended(self, event: RunStarted) -> bool:
        run = {"org": event.org, "run_id": event.run_id}
        for kind in ENDS:
            if await self._bus.last(kind.pattern(**run, attempt=event.attempt)) is not None:
                return True
        resumed = await self._bus.last(RunResumed.pattern(**run))
        return resumed is not None and isinstance(resumed.event, RunResumed) and resumed.event.attempt > event.attempt

    async def _claim(self, event: RunStarted) -> StepClaimed:
        told = await self._bus.last(StepClaimed.pattern(org=event.org, run_id=event.run_id))
        before = told.event if told and isinstance(told.event, StepClaimed) else None
        self._claims += 1
        # Numbered, so that two invocations of one replica never say the same claim: the second is refused.
        learner = f"{self._settings.replica}#{self._claims}"
        claim = StepClaimed(
            org=event.org,
            run_id=event.run_id,
            attempt=before.attempt + 1 if before else 1,
            learner=learner,
            reason=self._lost.pop((event.org, event.run_id), ""),
            machine=machine.boot_id(),
            memory_kills=machine.memory_kills(),
        )
        if before and not claim.reason and lost_to_memory(before, claim):
            return msgspec.structs.replace(claim, reason=OUT_OF_MEMORY)
        return claim

    async def _recorded(self, event: RunStarted) -> Recorded:
        patterns = noun_pattern("step", event.org, event.run_id)
        return Recorded.of([told.event async for told in self._bus.history(*patterns)])

    async def _check_groups(self, spec: RunSpec, event: RunStarted, done: int, recorded: Recorded) -> None:
        """Raises CannotTrain where the first step to be done again has lost its groups: they would never come."""
        if spec.algorithm != "grpo" or done + 1 not in recorded.finished:
            return
        known = {"org": event.org, "run_id": event.run_id, "scope": "train", "step": done + 1}
        there = [told.sequence async for told in self._bus.history(GroupScored.pattern(**known))]
        if len(there) < event.prompts_per_step:
            raise CannotTrain(
                f"step {done + 1} would have to be done again, as no later checkpoint can be read, but its groups have "
                "left the stream: start a new run from the newest adapter"
            )

    def _lessons(self, spec: RunSpec, event: RunStarted, done: int, over: Over) -> Lessons:
        if spec.algorithm == "sft":
            return GoldLessons(self._bus, self._store, spec, event, self._render, over.is_wanted)
        groups = Groups(self._bus, org=event.org, run_id=event.run_id, per_step=event.prompts_per_step, done=done)
        return GroupLessons(groups, spec)

    def _give_up(self, event: RunStarted, reason: str) -> list[Event]:
        return [_failed(event, reason)]


async def _cancel(work: asyncio.Future[Any]) -> None:
    """And wait until it has ended, whatever it ends with: whoever awaited it has heard."""
    work.cancel()
    await asyncio.wait({work})
    if not work.cancelled():
        work.exception()


def _failed(event: RunStarted, reason: str) -> TrainingFailed:
    return TrainingFailed(org=event.org, run_id=event.run_id, attempt=event.attempt, reason=reason, pool=event.pool)
