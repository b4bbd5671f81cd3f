"""A run as a state machine: what has been said about it, and what follows. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import singledispatch
from itertools import islice

from flash.contracts.base import Event, RunEvent, Scope
from flash.contracts.groups import GroupScored
from flash.contracts.keys import DATASET_CHUNK
from flash.contracts.plan import Plan, plan, unlearnable
from flash.contracts.requests import RunState
from flash.contracts.runs import (
    DatasetFailed,
    DatasetPrepared,
    DatasetRequested,
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
from flash.contracts.values import Fault, PolicyRef
from services.scheduler.planning import chunks_in_order, chunks_needed, rows_of_step
from services.scheduler.tally import Tally

CHUNKS_ASKED = 8
"""Chunks of the dataset that are asked for at a time: each that comes says again what is missing."""
FAULT_WINDOW = 3
"""Over how many steps the share of faults is measured."""


@dataclass(frozen=True)
class Ending:
    """A run's last word, and why."""

    state: str
    reason: str = ""
    fault: Fault | None = None
    told: bool = False
    """Whether the last word is in the stream."""


@dataclass(frozen=True)
class Run:
    """Everything that has been said about one run, folded."""

    spec: RunSpec
    submitted_at: float
    chunks: frozenset[int] = frozenset()
    """Chunks of the dataset that lie in the store."""
    plan: Plan | None = None
    planned: bool = False
    attempt: int = 0
    """0: not started."""
    claims: int = 0
    """Learners that took the run since a step was last finished."""
    step: int = -1
    """The newest finished step; -1: not even the start policy is out."""
    policies: tuple[tuple[int, PolicyRef], ...] = ()
    """The newest policies by version, as many as `max_lag` can ask for."""
    recent: tuple[StepFinished, ...] = ()
    """The last steps that had rollouts, FAULT_WINDOW of them at most."""
    metrics: dict[str, float] = field(default_factory=dict)
    """Of the newest step."""
    scored: frozenset[int] = frozenset()
    """Groups of an evaluation that are scored."""
    tally: Tally = field(default_factory=Tally)
    ending: Ending | None = None

    @property
    def state(self) -> str:
        if self.ending:
            return self.ending.state
        if self.attempt or (self.planned and self.spec.train is None):
            return "running"
        return "planning" if self.chunks else "queued"

    def described(self) -> RunState:
        """The run in one line."""
        return RunState(
            run_id=self.spec.run_id,
            state=self.state,
            algorithm=self.spec.algorithm,
            model=self.spec.model,
            environment=f"{self.spec.environment.id}@{self.spec.environment.version}",
            submitted_at=self.submitted_at,
            step=max(self.step, 0) if self.spec.train else len(self.scored),
            steps=(self.plan.steps if self.spec.train else self.plan.rows) if self.plan else 0,
            reason=self.ending.reason if self.ending else "",
            name=self.spec.name,
            waiting_for=_waiting_for(self),
        )


@dataclass(frozen=True)
class WantedGroup:
    """A group that a step needs, before its example is read from the store."""

    scope: Scope
    step: int
    group: int
    row: int
    policy: PolicyRef


def submitted(event: RunSubmitted) -> Run:
    return Run(spec=event.spec, submitted_at=event.submitted_at)


@singledispatch
def after(event: RunEvent, run: Run, *, max_takeovers: int) -> Run:
    """The run once this has been said. A run that has ended stays as it is."""
    return run


def follows(run: Run) -> list[Event]:
    """What must be in the stream by now, groups aside; saying it again does no harm."""
    spec = run.spec
    if run.ending:
        return [] if run.ending.told else [_last_word(run, run.ending)]
    if run.plan is None:
        return [_requested(run, 0)]
    said: list[Event] = [] if run.planned else [_planned(run, run.plan)]
    missing = (chunk for chunk in chunks_in_order(spec, run.plan) if chunk not in run.chunks)
    said += [_requested(run, chunk) for chunk in islice(missing, CHUNKS_ASKED)]
    if spec.train and not run.attempt and _can_start(run, run.plan):
        said.append(
            RunStarted(
                org=spec.org, run_id=spec.run_id, pool=spec.pool, attempt=1, steps=run.plan.steps,
                prompts_per_step=run.plan.prompts_per_step, rows=run.plan.rows,
            )
        )  # fmt: skip
    return said


def wanted_groups(run: Run, *, eval_window: int) -> Iterator[WantedGroup]:
    """The groups that should be under way now and are not yet known to be done."""
    if run.ending or run.plan is None:
        return
    if run.spec.algorithm == "grpo":
        yield from _training_groups(run, run.plan)
    elif run.spec.algorithm == "eval":
        yield from _evaluation_groups(run, run.plan, eval_window)


def _training_groups(run: Run, plan: Plan) -> Iterator[WantedGroup]:
    assert run.spec.train is not None
    if run.step < 0:
        return
    policies = dict(run.policies)
    newest_allowed = min(run.step + 1 + run.spec.train.max_lag, plan.steps)
    for step in range(run.step + 1, newest_allowed + 1):
        rows = rows_of_step(plan, run.spec.seed, step)
        if not all(row // DATASET_CHUNK in run.chunks for row in rows):
            return  # its chunk is on the way; later steps wait behind it
        policy = policies[max(0, step - 1 - run.spec.train.max_lag)]
        for group, row in enumerate(rows):
            yield WantedGroup("train", step, group, row, policy)


def _evaluation_groups(run: Run, plan: Plan, window: int) -> Iterator[WantedGroup]:
    open_rows = (row for row in range(plan.rows) if row not in run.scored)
    for _, row in zip(range(window), open_rows, strict=False):
        if row // DATASET_CHUNK not in run.chunks:
            return
        yield WantedGroup("eval", 1, row, row, run.spec.policy)


def _can_start(run: Run, plan: Plan) -> bool:
    if run.spec.algorithm == "sft":
        return all(chunk in run.chunks for chunk in chunks_needed(plan.rows))
    return all(row // DATASET_CHUNK in run.chunks for row in rows_of_step(plan, run.spec.seed, 1))


def _ended(run: Run, state: str, reason: str = "", fault: Fault | None = None) -> Run:
    return replace(run, ending=Ending(state, reason, fault))


@after.register
def _(event: DatasetPrepared, run: Run, *, max_takeovers: int) -> Run:
    if run.ending:
        return run
    if event.rows == 0:
        return _ended(run, "failed", f"the {run.spec.split} split of {run.spec.environment.id} has no rows")
    planned = run.plan or plan(run.spec, event.rows)
    run = replace(run, chunks=run.chunks | {event.chunk}, plan=planned)
    reason = unlearnable(run.spec, planned, event.missing_output)
    return _ended(run, "failed", reason) if reason else run


@after.register
def _(event: DatasetFailed, run: Run, *, max_takeovers: int) -> Run:
    if run.ending:
        return run
    return _ended(run, "failed", f"the dataset could not be prepared: {event.fault.message}", event.fault)


@after.register
def _(event: RunPlanned, run: Run, *, max_takeovers: int) -> Run:
    known = Plan(rows=event.rows, prompts_per_step=event.prompts_per_step, steps=event.steps)
    return replace(run, plan=known, planned=True)


@after.register
def _(event: RunStarted, run: Run, *, max_takeovers: int) -> Run:
    return replace(run, attempt=event.attempt)


@after.register
def _(event: StepClaimed, run: Run, *, max_takeovers: int) -> Run:
    run = replace(run, claims=run.claims + 1)
    if run.ending or run.claims <= max_takeovers:
        return run
    return _ended(
        run, "failed", f"{max_takeovers} learners in a row took the run without finishing step {run.step + 1}"
    )


@after.register
def _(event: StepFinished, run: Run, *, max_takeovers: int) -> Run:
    if run.spec.train is None:
        return run
    policies = (*run.policies, (event.step, event.policy))[-(run.spec.train.max_lag + 2) :]
    recent = (*run.recent, event)[-FAULT_WINDOW:] if event.rollouts else run.recent
    run = replace(run, step=event.step, claims=0, policies=policies, recent=recent, metrics=event.metrics)
    return run if run.ending else _checked_for_faults(run)


@after.register
def _(event: StepSaved, run: Run, *, max_takeovers: int) -> Run:
    return _ended(run, "done") if event.final and not run.ending else run


@after.register
def _(event: TrainingFailed, run: Run, *, max_takeovers: int) -> Run:
    return run if run.ending else _ended(run, "failed", event.reason)


@after.register
def _(event: GroupScored, run: Run, *, max_takeovers: int) -> Run:
    plan = run.plan
    if run.ending or plan is None or event.scope != "eval" or event.group in run.scored:
        return run
    run = replace(run, scored=run.scored | {event.group}, tally=run.tally.plus(event))
    if len(run.scored) < plan.rows:
        return run
    if run.tally.faults == run.tally.rollouts:
        fault = next(verdict.fault for verdict in event.verdicts if verdict.fault)
        return _ended(run, "failed", f"every rollout was a fault; the last one: {fault.message}", fault)
    return _ended(run, "done")


@after.register
def _(event: RunCancelRequested, run: Run, *, max_takeovers: int) -> Run:
    return run if run.ending else _ended(run, "cancelled", "cancelled by request")


@after.register(RunCompleted)
@after.register(RunFailed)
@after.register(RunCancelled)
def _(event: RunCompleted | RunFailed | RunCancelled, run: Run, *, max_takeovers: int) -> Run:
    """The stream holds one last word and it stands, whatever this fold would have said."""
    if isinstance(event, RunFailed):
        return replace(run, ending=Ending("failed", event.reason, event.fault, told=True))
    state = "done" if isinstance(event, RunCompleted) else "cancelled"
    reason = run.ending.reason if run.ending and run.ending.state == state else ""
    return replace(run, ending=Ending(state, reason, told=True))


def _checked_for_faults(run: Run) -> Run:
    """A run whose faults pass `max_faults` over the last steps fails with that reason."""
    assert run.spec.train is not None
    rollouts, faults = sum(s.rollouts for s in run.recent), sum(s.faults for s in run.recent)
    if len(run.recent) < FAULT_WINDOW or faults <= run.spec.train.max_faults * rollouts:
        return run
    samples = [fault for step in run.recent for fault in step.fault_samples]
    worst = samples[-1] if samples else None
    told = f"; the last one {worst.kind}: {worst.message}" if worst else ""
    return _ended(
        run, "failed",
        f"{faults} of the last {rollouts} rollouts were faults, more than train.max_faults = "
        f"{run.spec.train.max_faults:g} allows{told}",
        worst,
    )  # fmt: skip


def _last_word(run: Run, ending: Ending) -> Event:
    spec = run.spec
    if ending.state == "failed":
        return RunFailed(org=spec.org, run_id=spec.run_id, reason=ending.reason, fault=ending.fault)
    if ending.state == "cancelled":
        return RunCancelled(org=spec.org, run_id=spec.run_id)
    metrics = run.tally.summary() if spec.algorithm == "eval" else dict(run.metrics)
    return RunCompleted(org=spec.org, run_id=spec.run_id, metrics=metrics)


def _planned(run: Run, plan: Plan) -> RunPlanned:
    return RunPlanned(
        org=run.spec.org, run_id=run.spec.run_id, rows=plan.rows, prompts_per_step=plan.prompts_per_step,
        steps=plan.steps,
    )  # fmt: skip


def _requested(run: Run, chunk: int) -> DatasetRequested:
    return DatasetRequested(org=run.spec.org, run_id=run.spec.run_id, chunk=chunk)


def _waiting_for(run: Run) -> str:
    if run.ending:
        return ""
    if run.plan is None:
        return "a scorer to prepare its dataset"
    if run.spec.train and run.step < 0:
        return f"a learner of pool {run.spec.pool}"
    return ""
