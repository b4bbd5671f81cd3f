"""The scheduler: folds what is said about every run, and says what follows."""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

import msgspec
import structlog

from flash import chaos
from flash.bus import Bus, Replica, Shared, Told
from flash.contracts.base import Done, Event, Request, RunEvent, Scope, Token
from flash.contracts.groups import GroupRequested, GroupScored
from flash.contracts.keys import DATASET_CHUNK, dataset_key, sealed_key, spec_key
from flash.contracts.requests import (
    EnvironmentResolve,
    RunCancel,
    RunDelete,
    RunGet,
    RunList,
    RunListing,
    RunResume,
    RunState,
    RunSubmit,
)
from flash.contracts.runs import (
    DatasetFailed,
    DatasetPrepared,
    DatasetRequested,
    RunCancelled,
    RunCancelRequested,
    RunCompleted,
    RunDeleted,
    RunEvaluated,
    RunFailed,
    RunPlanned,
    RunResumed,
    RunRetried,
    RunStarted,
    RunSubmitted,
    RunWarned,
)
from flash.contracts.spec import RunSpec
from flash.contracts.steps import StepClaimed, StepFinished, StepSaved, TrainingFailed
from flash.contracts.values import Example
from flash.errors import AlreadyThere, BusError, NobodyAnswers, NotFound, Refused, StoreError
from flash.store import Store
from services.scheduler.deleting import datasets_of, erase_rows, gone, require_deletable
from services.scheduler.following import WantedGroup, follows, wanted_groups
from services.scheduler.guards import overdue
from services.scheduler.queue import Surroundings, admitted, described
from services.scheduler.runs import Run, after, submitted
from services.scheduler.settings import Settings
from services.scheduler.starting import check_start

HEARD: tuple[str, ...] = (
    *(
        kind.pattern()
        for kind in (
            RunSubmitted, RunPlanned, RunStarted, RunRetried, RunWarned, RunEvaluated, RunResumed, RunCancelRequested,
            RunCompleted, RunFailed, RunCancelled, RunDeleted, DatasetRequested, DatasetPrepared, DatasetFailed,
            StepClaimed, StepFinished, StepSaved, TrainingFailed,
        )
    ),
    GroupScored.pattern(scope="eval"),
)  # fmt: skip
READY_S = 8.0
"""How long somebody who asks waits for a scheduler that has not read everything yet."""
HUB_S = 5.0
"""How long the hub may take to say whether a version can still be used."""
FOLD_S = 2.0
"""How long what we said may take to come back to us."""
MOST_LISTED = 500

log = structlog.get_logger()


class Scheduler:
    """Every decision is a fact that follows from facts, so a scheduler that starts anew goes on where the last one was,
    and two at once say the same things.
    """

    def __init__(
        self,
        bus: Bus,
        store: Store,
        settings: Settings,
        now: Callable[[], float],
        free_bytes: Callable[[], int | None] = lambda: None,
    ) -> None:
        """`free_bytes`: how much room the stack's disk has."""
        self._bus = bus
        self._store = store
        self._settings = settings
        self._now = now
        self._free_bytes = free_bytes
        self._around = Surroundings(wanted_bytes=settings.min_free_bytes)
        self._runs: dict[str, Run] = {}
        self._live: dict[str, Run] = {}
        """Those whose last word is not told."""
        self._deleted: dict[str, str] = {}
        """Whose they were that are gone, by run."""
        self._accepting = asyncio.Lock()
        """Held from looking at a run to knowing what was said of it: what one starts from is not deleted meanwhile."""
        self._called: set[str] = set()
        """Those that have heard that it is their turn."""
        self._asked: dict[str, set[tuple[Scope, int, int]]] = {}
        self._chunks: dict[str, list[Example]] = {}
        self._caught_up = asyncio.Event()
        self._folded = asyncio.Event()
        self._saying = asyncio.Lock()

    def subscriptions(self) -> tuple[Shared, ...]:
        """Deleting is done by one scheduler; when that dies, by another."""
        return (Shared("scheduler-deletions", RunDeleted, self.on_run_deleted, max_deliveries=0),)

    def answers(self) -> Mapping[type[Request], Callable[[Any], Awaitable[Any]]]:
        return {
            RunSubmit: self.on_run_submit,
            RunCancel: self.on_run_cancel,
            RunResume: self.on_run_resume,
            RunDelete: self.on_run_delete,
            RunGet: self.on_run_get,
            RunList: self.on_run_list,
        }

    async def watch(self) -> None:
        """Fold the stream from its beginning; once caught up, say what follows for each run that has news."""
        news: dict[str, str] = {}
        position = 0
        async for told in self._bus.history(*HEARD):
            position = told.sequence
            self._fold(told, news)
        self._caught_up.set()
        await self._tell(news)
        async for told in self._bus.replay(*HEARD, after=position):
            self._fold(told, news)
            if told.pending == 0:
                await self._tell(news)
                news.clear()

    async def look_around(self) -> None:
        """Beside `watch`, for whatever comes about without a word: time passes, disks fill, replicas come and go."""
        await self._caught_up.wait()
        while True:
            await self._look()
            stuck, now = self._around.obstacles, self._now()
            for run in list(self._live.values()):
                if not run.ending and (reason := overdue(run.started_at, now, run.spec.platform)):
                    failed = RunFailed(org=run.spec.org, run_id=run.spec.run_id, attempt=run.attempt, reason=reason)
                    await self._bus.publish(failed)
            await self._tell(dict.fromkeys(stuck, ""))
            await asyncio.sleep(self._settings.look_s)

    async def on_run_submit(self, request: RunSubmit) -> RunState:
        """Accept a run; the same `run_id` again is the same run."""
        await self._ready()
        if request.spec.environment.secrets and "scorer" not in request.sealed:
            raise Refused("the run declares secrets, but none came with it: submit it with `flash train`")
        async with self._accepting:
            if request.spec.run_id in self._deleted:
                raise Refused(f"the run {request.spec.run_id} was deleted: submit it under another id")
            await check_start(self._bus, self._store, request.spec)
            platform = self._settings.platform(request.spec)
            spec = await self._kept(msgspec.structs.replace(request.spec, platform=platform))
            for service, sealed in request.sealed.items():
                with suppress(AlreadyThere):
                    await self._store.put(sealed_key(spec.run_id, service), sealed, if_absent=True)
            known = self._runs.get(spec.run_id)
            if known and known.ending:
                return self._described(known)
            event = RunSubmitted(org=spec.org, run_id=spec.run_id, spec=spec, submitted_at=self._now())
            await self._bus.publish(event)
            await self._until(lambda: spec.run_id in self._runs)
            state = self._described(self._runs.get(spec.run_id) or submitted(event))
        await self._fail_if_withdrawn(spec, attempt=1)
        return state

    async def on_run_cancel(self, request: RunCancel) -> RunState:
        run = await self._run(request)
        if run.ending:
            raise Refused(f"run {request.run_id} is {run.state} already: there is nothing to cancel")
        await self._bus.publish(RunCancelRequested(org=request.org, run_id=request.run_id, attempt=run.attempt))
        return self._described(run)

    async def on_run_resume(self, request: RunResume) -> RunState:
        """Reopen a run that has failed or was cancelled; the same attempt again is the same."""
        run = await self._run(request)
        if run.attempt >= request.attempt and not run.ending:
            return self._described(run)
        if run.ending is None or not run.ending.told:
            raise Refused(f"run {request.run_id} is {run.state}: there is nothing to resume")
        if run.ending.state == "done":
            raise Refused(
                f"run {request.run_id} is done and is not reopened: fork it, by a new run whose config says "
                f'train.init_from_adapter = "{request.run_id}"'
            )
        event = RunResumed(org=request.org, run_id=request.run_id, attempt=run.attempt + 1, resumed_at=self._now())
        async with self._accepting:
            if request.run_id in self._deleted:
                raise gone(request.run_id)
            if await self._bus.last(StepSaved.pattern(org=request.org, run_id=request.run_id)) is None:
                await check_start(self._bus, self._store, run.spec)  # from where it began, which may be gone
            await self._bus.publish(event)
            await self._until(lambda: self._runs[request.run_id].attempt >= event.attempt)
        await self._fail_if_withdrawn(run.spec, attempt=event.attempt)
        return self._described(after(event, run, at=event.resumed_at))

    async def on_run_delete(self, request: RunDelete) -> Done:
        """Say that a run is to go; what it left goes within moments."""
        await self._ready()
        async with self._accepting:
            if self._deleted.get(request.run_id) != request.org:
                run = await self._run(request)
                await require_deletable(self._bus, run, [live.spec for live in self._live.values()])
                rows = sorted(datasets_of(run.spec))
                await self._bus.publish(RunDeleted(org=request.org, run_id=request.run_id, datasets=rows))
                await self._until(lambda: request.run_id in self._deleted)
        return Done()

    async def on_run_deleted(self, event: RunDeleted) -> list[Event]:
        async with self._accepting, self._saying:  # no run is told meanwhile that rows are there which go
            await erase_rows(self._store, event, [run.spec for run in self._runs.values()])
        return []

    async def on_run_get(self, request: RunGet) -> RunState:
        return self._described(await self._run(request))

    async def on_run_list(self, request: RunList) -> RunListing:
        await self._ready()
        mine = (run for run in self._runs.values() if run.spec.org == request.org)
        found = [run for run in mine if not request.states or run.state in request.states]
        found.sort(key=lambda run: -run.submitted_at)
        page = found[max(0, request.offset) :][: max(0, min(request.limit, MOST_LISTED))]
        return RunListing(runs=[self._described(run) for run in page], total=len(found))

    async def _fail_if_withdrawn(self, spec: RunSpec, attempt: int) -> None:
        """A version that was withdrawn since it was pinned cannot be had any more: the attempt ends at once.

        Asked once the run is told: the hub marks a version, and only then looks whether a run uses it, so one of the
        two sees the other.
        """
        environment = spec.environment
        try:
            await self._bus.ask(EnvironmentResolve(reference=f"{environment.id}@{environment.version}"), HUB_S)
        except NotFound as error:
            await self._bus.publish(RunFailed(org=spec.org, run_id=spec.run_id, attempt=attempt, reason=str(error)))

    async def _ready(self) -> None:
        try:
            async with asyncio.timeout(READY_S):
                await self._caught_up.wait()
        except TimeoutError:
            raise NobodyAnswers("the scheduler is still reading what was said before it started") from None

    async def _until(self, is_folded: Callable[[], bool]) -> None:
        """What was just said has come back to us: the next question is answered by it."""
        with suppress(TimeoutError):
            async with asyncio.timeout(FOLD_S):
                while not is_folded():
                    self._folded.clear()
                    await self._folded.wait()

    async def _run(self, request: RunCancel | RunResume | RunDelete | RunGet) -> Run:
        """Somebody else's run is none."""
        await self._ready()
        run = self._runs.get(request.run_id)
        if run is None or run.spec.org != request.org:
            raise gone(request.run_id)
        return run

    def _described(self, run: Run) -> RunState:
        return described(run, self._live.values(), self._around, most=self._settings.max_org_runs)

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

    def _fold(self, told: Told, news: dict[str, str]) -> None:
        event = told.event
        self._folded.set()
        assert isinstance(event, RunEvent)
        if isinstance(event, RunDeleted):
            self._deleted[event.run_id] = event.org
            if run := self._runs.pop(event.run_id, None):
                self._forget(run)
            return
        if isinstance(event, RunSubmitted):
            self._runs.setdefault(event.run_id, submitted(event, place=told.sequence))
        elif run := self._runs.get(event.run_id):
            self._runs[event.run_id] = after(event, run, at=told.time, place=told.sequence)
        else:
            return
        run = self._runs[event.run_id]
        if run.ending and run.ending.told:
            self._forget(run)
        else:
            self._live[event.run_id] = run
        news[event.run_id] = event.subject

    async def _tell(self, news: Mapping[str, str]) -> None:
        """Say what follows for runs that have news, and for those whose turn it has become."""
        async with self._saying:
            turn = admitted(self._live.values(), self._around, most=self._settings.max_org_runs)
            obstacles = dict(self._around.obstacles)
            for run_id in [*news, *(turn - self._called - news.keys())]:
                obstacles.pop(run_id, None)
                run = self._live.get(run_id)
                if run is None or not (run.ending or run_id in turn):
                    continue
                try:
                    await self._say_what_follows(run, news.get(run_id, ""))
                    self._called.add(run_id)
                except (BusError, StoreError) as error:
                    log.warning("run.stuck", run_id=run_id, reason=str(error))
                    obstacles[run_id] = f"storage, which says: {error}"
            self._around = replace(self._around, obstacles=obstacles)

    async def _say_what_follows(self, run: Run, cause: str) -> None:
        await self._say(follows(run), cause)
        if run.ending:
            return
        asked = self._asked.setdefault(run.spec.run_id, set())
        wanted = [
            w
            for w in wanted_groups(run, eval_window=self._settings.eval_window)
            if (w.scope, w.step, w.group) not in asked
        ]
        chaos.point("before-asking")
        await self._say([await self._group_requested(run, group) for group in wanted], cause)
        chaos.point("asked")
        asked.update((w.scope, w.step, w.group) for w in wanted)

    async def _say(self, events: list[Event], cause: str) -> None:
        await asyncio.gather(*(self._bus.publish(event, caused_by=cause) for event in events))

    async def _group_requested(self, run: Run, wanted: WantedGroup) -> GroupRequested:
        spec = run.spec.of(wanted.scope)
        return GroupRequested(
            org=spec.org, run_id=spec.run_id, pool=spec.pool, attempt=run.attempt, scope=wanted.scope,
            step=wanted.step, group=wanted.group, example=await self._example(spec, wanted.row), policy=wanted.policy,
        )  # fmt: skip

    async def _example(self, spec: RunSpec, row: int) -> Example:
        key = dataset_key(spec, row // DATASET_CHUNK)
        if key not in self._chunks:
            read = partial(msgspec.msgpack.decode, type=list[Example])
            self._chunks[key] = read(await self._store.get(key))
            while len(self._chunks) > self._settings.cached_chunks:
                self._chunks.pop(next(iter(self._chunks)))
        return self._chunks[key][row % DATASET_CHUNK]

    async def _look(self) -> None:
        try:
            replicas = await self._bus.replicas(announced=True)
        except BusError as error:
            log.warning("replicas.unknown", reason=str(error))
            return
        self._around = replace(
            self._around,
            serving=_pools(replica for replica in replicas if replica.is_ready),
            coming=_pools(replica for replica in replicas if not replica.is_ready),
            free_bytes=await asyncio.to_thread(self._free_bytes),
        )

    def _forget(self, run: Run) -> None:
        """Drop what only a live run needs."""
        run_id = run.spec.run_id
        self._called.discard(run_id)
        self._asked.pop(run_id, None)
        if self._live.pop(run_id, None) is not None and self._caught_up.is_set():
            log.info("run.ended", run_id=run_id, state=run.state)


def _pools(replicas: Iterable[Replica]) -> dict[str, frozenset[Token]]:
    """By service."""
    found: defaultdict[str, set[Token]] = defaultdict(set)
    for replica in replicas:
        found[replica.service].add(replica.metadata.get("pool", ""))
    return {service: frozenset(pools) for service, pools in found.items()}
