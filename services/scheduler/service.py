"""The scheduler: folds what is said about every run, and says what follows."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

import msgspec
import structlog

from flash import chaos
from flash.bus import Bus
from flash.contracts.base import Event, Request, RunEvent
from flash.contracts.groups import GroupRequested, GroupScored
from flash.contracts.keys import DATASET_CHUNK, dataset_key, sealed_key, spec_key
from flash.contracts.requests import RunCancel, RunList, RunListing, RunState, RunSubmit
from flash.contracts.runs import (
    DatasetFailed,
    DatasetPrepared,
    RunCancelled,
    RunCancelRequested,
    RunCompleted,
    RunFailed,
    RunPlanned,
    RunStarted,
    RunSubmitted,
)
from flash.contracts.spec import RunSpec
from flash.contracts.steps import StepClaimed, StepFinished, StepSaved, TrainingFailed
from flash.contracts.values import Example
from flash.errors import AlreadyThere, NotFound, Refused
from flash.store import Store
from services.scheduler.runs import Run, WantedGroup, after, follows, submitted, wanted_groups
from services.scheduler.settings import Settings
from services.scheduler.starting import check_start

HEARD: tuple[str, ...] = (
    *(
        kind.pattern()
        for kind in (
            RunSubmitted, RunPlanned, RunStarted, RunCancelRequested, RunCompleted, RunFailed, RunCancelled,
            DatasetPrepared, DatasetFailed, StepClaimed, StepFinished, StepSaved, TrainingFailed,
        )
    ),
    GroupScored.pattern(scope="eval"),
)  # fmt: skip

log = structlog.get_logger()


class Scheduler:
    """Every decision is a fact that follows from facts, so a scheduler that starts anew goes on where the last one was,
    and two at once say the same things.
    """

    def __init__(self, bus: Bus, store: Store, settings: Settings, now: Callable[[], float]) -> None:
        self._bus = bus
        self._store = store
        self._settings = settings
        self._now = now
        self._runs: dict[str, Run] = {}
        self._asked: dict[str, set[tuple[int, int]]] = {}
        self._chunks: dict[str, list[Example]] = {}

    def answers(self) -> Mapping[type[Request], Callable[[Any], Awaitable[Any]]]:
        return {RunSubmit: self.on_run_submit, RunCancel: self.on_run_cancel, RunList: self.on_run_list}

    async def watch(self) -> None:
        """Fold the stream from its beginning; once caught up, say what follows for each run that has news."""
        news: dict[str, str] = {}
        async for told in self._bus.replay(*HEARD):
            assert isinstance(told.event, RunEvent)
            self._fold(told.event)
            news[told.event.run_id] = told.event.subject
            if told.pending == 0:
                for run_id, cause in news.items():
                    await self._say_what_follows(run_id, cause)
                news.clear()

    async def on_run_submit(self, request: RunSubmit) -> RunState:
        """Accept a run; the same `run_id` again is the same run."""
        if request.spec.environment.secrets and "scorer" not in request.sealed:
            raise Refused("the run declares secrets, but none came with it: submit it with `flash train`")
        await check_start(self._bus, self._store, request.spec)
        spec = await self._kept(request.spec)
        for service, sealed in request.sealed.items():
            with suppress(AlreadyThere):
                await self._store.put(sealed_key(spec.run_id, service), sealed, if_absent=True)
        if known := self._runs.get(spec.run_id):
            return known.described()
        event = RunSubmitted(org=spec.org, run_id=spec.run_id, spec=spec, submitted_at=self._now())
        await self._bus.publish(event)
        return submitted(event).described()

    async def on_run_cancel(self, request: RunCancel) -> RunState:
        run = self._runs.get(request.run_id)
        if run is None or run.spec.org != request.org:
            raise NotFound(f"there is no run {request.run_id}: `flash runs` lists them")
        if run.ending:
            raise Refused(f"run {request.run_id} is {run.state} already: there is nothing to cancel")
        await self._bus.publish(RunCancelRequested(org=request.org, run_id=request.run_id))
        return run.described()

    async def on_run_list(self, request: RunList) -> RunListing:
        runs = [run for run in self._runs.values() if run.spec.org == request.org]
        return RunListing(runs=[r.described() for r in sorted(runs, key=lambda run: -run.submitted_at)])

    async def _kept(self, spec: RunSpec) -> RunSpec:
        """The spec that stands under this run id: the first that was submitted."""
        key = spec_key(spec.run_id)
        try:
            await self._store.put(key, msgspec.json.encode(spec), if_absent=True)
        except AlreadyThere:
            kept = msgspec.json.decode(await self._store.get(key), type=RunSpec)
            if kept.org != spec.org:
                raise Refused(f"the run id {spec.run_id} is taken: submit under another") from None
            return kept
        return spec

    def _fold(self, event: RunEvent) -> None:
        if isinstance(event, RunSubmitted):
            self._runs.setdefault(event.run_id, submitted(event))
        elif run := self._runs.get(event.run_id):
            self._runs[event.run_id] = after(event, run, max_takeovers=self._settings.max_takeovers)

    async def _say_what_follows(self, run_id: str, cause: str) -> None:
        if (run := self._runs.get(run_id)) is None:
            return
        await self._say(follows(run), cause)
        if run.ending:
            self._forget(run)
            return
        asked = self._asked.setdefault(run_id, set())
        wanted = [
            w for w in wanted_groups(run, eval_window=self._settings.eval_window) if (w.step, w.group) not in asked
        ]
        chaos.point("before-asking")
        await self._say([await self._group_requested(run, group) for group in wanted], cause)
        chaos.point("asked")
        asked.update((w.step, w.group) for w in wanted)

    async def _say(self, events: list[Event], cause: str) -> None:
        await asyncio.gather(*(self._bus.publish(event, caused_by=cause) for event in events))

    async def _group_requested(self, run: Run, wanted: WantedGroup) -> GroupRequested:
        spec = run.spec
        return GroupRequested(
            org=spec.org, run_id=spec.run_id, pool=spec.pool, attempt=max(run.attempt, 1), scope=wanted.scope,
            step=wanted.step, group=wanted.group, example=await self._example(run, wanted.row), policy=wanted.policy,
        )  # fmt: skip

    async def _example(self, run: Run, row: int) -> Example:
        key = dataset_key(run.spec, row // DATASET_CHUNK)
        if key not in self._chunks:
            read = partial(msgspec.msgpack.decode, type=list[Example])
            self._chunks[key] = read(await self._store.get(key))
            while len(self._chunks) > self._settings.cached_chunks:
                self._chunks.pop(next(iter(self._chunks)))
        return self._chunks[key][row % DATASET_CHUNK]

    def _forget(self, run: Run) -> None:
        """Drop what only a live run needs."""
        if self._asked.pop(run.spec.run_id, None) is not None:
            log.info("run.ended", run_id=run.spec.run_id, state=run.state)
