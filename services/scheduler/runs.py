"""A run as a state machine: what has been said about it, folded. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import singledispatch
from typing import Any

from flash.contracts.base import RunEvent
from flash.contracts.groups import GroupScored
from flash.contracts.plan import Plan, plan, unlearnable
from flash.contracts.runs import (
    DatasetFailed,
    DatasetPrepared,
    DatasetRequested,
    RunCancelled,
    RunCancelRequested,
    RunCompleted,
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
from flash.contracts.values import Fault, PolicyRef
from services.scheduler.guards import FAULT_WINDOW, Flatness, faulty, hopeless
from services.scheduler.planning import is_evaluated
from services.scheduler.tally import Tally


@dataclass(frozen=True)
class Ending:
    """An attempt's last word, and why."""

    state: str
    reason: str = ""
    fault: Fault | None = None
    told: bool = False
    """Whether the last word is in the stream."""
    at: float = 0.0
    """When it was told."""


@dataclass(frozen=True)
class Evaluating:
    """A policy of a training run on the rows of its evaluation split."""

    policy: PolicyRef
    scored: frozenset[int] = frozenset()
    tally: Tally = field(default_factory=Tally)


@dataclass(frozen=True)
class Retry:
    """The run changed hands."""

    claim: int
    step: int
    """The last that was finished."""
    reason: str


@dataclass(frozen=True)
class Run:
    """Everything that has been said about one run, folded."""

    spec: RunSpec
    submitted_at: float
    place: int = 0
    """Where in the stream it was queued last: the order of the queue."""
    attempt: int = 1
    admitted: bool = False
    """Something has been asked for in this attempt: it has left the queue."""
    chunks: frozenset[int] = frozenset()
    """Chunks of the dataset that lie in the store."""
    eval_chunks: frozenset[int] = frozenset()
    """The same of the evaluation split."""
    eval_rows: int | None = None
    """None: not counted yet."""
    plan: Plan | None = None
    planned: bool = False
    started_at: float | None = None
    """When this attempt was handed to the learners, or to the rollouts; None: it was not."""
    claimed: bool = False
    """A learner has taken this attempt."""
    claim: int = 0
    """The newest learner's claim, over all attempts."""
    claims: int = 0
    """Learners that took the run since a step was last finished."""
    retries: tuple[Retry, ...] = ()
    retries_told: int = 0
    """The claim of the newest retry that is in the stream."""
    step: int = -1
    """The newest finished step; -1: not even the start policy is out."""
    saved: bool = False
    """The last checkpoint is in the store."""
    policies: tuple[tuple[int, PolicyRef], ...] = ()
    """The newest policies by version, as many as `max_lag` can ask for."""
    recent: tuple[StepFinished, ...] = ()
    """The last steps of this attempt that had rollouts, FAULT_WINDOW of them at most."""
    flatness: Flatness = field(default_factory=Flatness)
    warnings: tuple[RunWarned, ...] = ()
    """Of this attempt, whether told or not."""
    warnings_told: frozenset[str] = frozenset()
    metrics: dict[str, float] = field(default_factory=dict)
    """Of the newest step."""
    evaluating: dict[int, Evaluating] = field(default_factory=dict)
    """Evaluations of policies that are due and not told, by version."""
    scored: frozenset[int] = frozenset()
    """Groups of an evaluation that are scored."""
    tally: Tally = field(default_factory=Tally)
    ending: Ending | None = None

    @property
    def state(self) -> str:
        if self.ending:
            return self.ending.state
        if self.claimed or (self.planned and self.spec.train is None):
            return "running"
        return "planning" if self.admitted else "queued"


def submitted(event: RunSubmitted, *, place: int = 0) -> Run:
    return Run(spec=event.spec, submitted_at=event.submitted_at, place=place)


@singledispatch
def after(event: RunEvent, run: Run, *, at: float = 0.0, place: int = 0) -> Run:
    """The run once this has been said, `at` what time and `place` of the stream. An attempt that has ended stays as it
    is.
    """
    return run


@after.register
def _(event: DatasetRequested, run: Run, *, at: float = 0.0, place: int = 0) -> Run:
    return replace(run, admitted=True) if event.attempt == run.attempt else run


@after.register
def _(event: DatasetPrepared, run: Run, *, at: float = 0.0, place: int = 0) -> Run:
    is_evaluation = event.scope == "eval" and run.spec.train is not None
    if is_evaluation:
        run = replace(run, eval_chunks=run.eval_chunks | {event.chunk}, eval_rows=event.rows)
    else:
        run = replace(run, chunks=run.chunks | {event.chunk})
    if run.ending:
        return run
    if event.rows == 0:
        split = run.spec.of(event.scope).split
        return _ended(run, "failed", f"the {split} split of {run.spec.environment.id} has no rows")
    if is_evaluation:
        return run
    planned = run.plan or plan(run.spec, event.rows)
    run = replace(run, plan=planned)
    reason = unlearnable(run.spec, planned, event.missing_output)
    return _ended(run, "failed", reason) if reason else run


@after.register
def _(event: DatasetFailed, run: Run, *, at: float = 0.0, place: int = 0) -> Run:
    if run.ending or event.attempt != run.attempt:
        return run
    return _ended(run, "failed", f"the dataset could not be prepared: {event.fault.message}", event.fault)


@after.register
def _(event: RunPlanned, run: Run, *, at: float = 0.0, place: int = 0) -> Run:
    known = Plan(rows=event.rows, prompts_per_step=event.prompts_per_step, steps=event.steps)
    run = replace(run, plan=known, planned=True)
    return replace(run, started_at=at) if run.spec.train is None and run.started_at is None else run


@after.register
def _(event: RunStarted, run: Run, *, at: float = 0.0, place: int = 0) -> Run:
    return replace(run, admitted=True, started_at=at) if event.attempt == run.attempt else run


@after.register
def _(event: StepClaimed, run: Run, *, at: float = 0.0, place: int = 0) -> Run:
    run = replace(run, claims=run.claims + 1, claim=event.attempt)
    if run.ending:
        return run
    if not run.claimed:
        return replace(run, claimed=True)
    reason = event.reason or f"the learner was lost, and {event.learner.partition('#')[0]} took the run over"
    run = replace(run, retries=(*run.retries, Retry(event.attempt, run.step, reason)))
    if run.claims <= (most := run.spec.platform.retries):
        return run
    reasons = dict.fromkeys(retry.reason for retry in run.retries[-most:])
    return _ended(
        run, "failed",
        f"{most} learners in a row took the run without finishing step {run.step + 1}: {'; '.join(reasons)}",
    )  # fmt: skip


@after.register
def _(event: RunRetried, run: Run, *, at: float = 0.0, place: int = 0) -> Run:
    return replace(run, retries_told=max(run.retries_told, event.claim))


@after.register
def _(event: StepFinished, run: Run, *, at: float = 0.0, place: int = 0) -> Run:
    train = run.spec.train
    if train is None:
        return run
    run = replace(
        run, step=event.step, claims=0, metrics=event.metrics,
        policies=(*run.policies, (event.step, event.policy))[-(train.max_lag + 2) :],
        recent=(*run.recent, event)[-FAULT_WINDOW:] if event.rollouts else run.recent,
        flatness=run.flatness.after(event),
    )  # fmt: skip
    if run.plan and is_evaluated(event.step, every=train.eval_every, steps=run.plan.steps):
        run = replace(run, evaluating=run.evaluating | {event.step: Evaluating(event.policy)})
    return run if run.ending else _guarded(run)


@after.register
def _(event: StepSaved, run: Run, *, at: float = 0.0, place: int = 0) -> Run:
    return _done_if_all_is(replace(run, saved=True)) if event.final else run


@after.register
def _(event: RunWarned, run: Run, *, at: float = 0.0, place: int = 0) -> Run:
    if event.attempt != run.attempt:
        return run
    others = (warning for warning in run.warnings if warning.kind != event.kind)
    return replace(run, warnings=(*others, event), warnings_told=run.warnings_told | {event.kind})


@after.register
def _(event: RunEvaluated, run: Run, *, at: float = 0.0, place: int = 0) -> Run:
    left = {version: open for version, open in run.evaluating.items() if version != event.step}
    return _done_if_all_is(replace(run, evaluating=left))


@after.register
def _(event: TrainingFailed, run: Run, *, at: float = 0.0, place: int = 0) -> Run:
    return run if run.ending or event.attempt != run.attempt else _ended(run, "failed", event.reason)


@after.register
def _(event: GroupScored, run: Run, *, at: float = 0.0, place: int = 0) -> Run:
    if event.scope != "eval":
        return run
    if run.spec.train is not None:
        return _scored_policy(run, event)
    plan = run.plan
    if plan is None or event.group in run.scored:
        return run
    run = replace(run, scored=run.scored | {event.group}, tally=run.tally.plus(event))
    if run.ending or len(run.scored) < plan.rows:
        return run
    if run.tally.faults == run.tally.rollouts:
        fault = next(verdict.fault for verdict in event.verdicts if verdict.fault)
        return _ended(run, "failed", f"every rollout was a fault; the last one: {fault.message}", fault)
    return _ended(run, "done")


@after.register
def _(event: RunCancelRequested, run: Run, *, at: float = 0.0, place: int = 0) -> Run:
    return run if run.ending or event.attempt != run.attempt else _ended(run, "cancelled", "cancelled by request")


@after.register(RunCompleted)
@after.register(RunFailed)
@after.register(RunCancelled)
def _(event: RunCompleted | RunFailed | RunCancelled, run: Run, *, at: float = 0.0, place: int = 0) -> Run:
    """The stream holds one last word of an attempt and it stands, whatever this fold would have said."""
    if event.attempt != run.attempt or (run.ending and run.ending.told):
        return run
    if isinstance(event, RunFailed):
        return _settled(run, Ending("failed", event.reason, event.fault, told=True, at=at))
    state = "done" if isinstance(event, RunCompleted) else "cancelled"
    reason = run.ending.reason if run.ending and run.ending.state == state else ""
    return _settled(run, Ending(state, reason, told=True, at=at))


@after.register
def _(event: RunResumed, run: Run, *, at: float = 0.0, place: int = 0) -> Run:
    """The next attempt begins with what is known, and with a clean slate for what ends attempts."""
    if event.attempt != run.attempt + 1:
        return run
    return replace(
        run, attempt=event.attempt, place=place, ending=None, admitted=False, claimed=False, claims=0,
        started_at=None if run.spec.train else at, recent=(), flatness=Flatness(), warnings=(),
        warnings_told=frozenset(),
    )  # fmt: skip


def _guarded(run: Run) -> Run:
    """What the last steps mean for the run: a last word, a warning, or nothing."""
    assert run.spec.train is not None
    platform = run.spec.platform
    if reason := faulty(run.recent, run.spec.train.max_faults):
        samples = [fault for step in run.recent for fault in step.fault_samples]
        return _ended(run, "failed", reason, samples[-1] if samples else None)
    if reason := hopeless(run.flatness, platform):
        return _ended(run, "failed", reason)
    if (warning := run.flatness.warning(platform)) and all(w.kind != warning[0] for w in run.warnings):
        kind, message = warning
        warned = RunWarned(
            org=run.spec.org, run_id=run.spec.run_id, attempt=run.attempt, kind=kind, step=run.step, message=message
        )
        return replace(run, warnings=(*run.warnings, warned))
    return run


def _scored_policy(run: Run, event: GroupScored) -> Run:
    found = run.evaluating.get(event.step)
    if found is None or event.group in found.scored:
        return run
    found = replace(found, scored=found.scored | {event.group}, tally=found.tally.plus(event))
    return replace(run, evaluating=run.evaluating | {event.step: found})


def _done_if_all_is(run: Run) -> Run:
    return _ended(run, "done") if run.saved and not run.evaluating and not run.ending else run


def _ended(run: Run, state: str, reason: str = "", fault: Fault | None = None) -> Run:
    return replace(run, ending=Ending(state, reason, fault))


def _settled(run: Run, ending: Ending) -> Run:
    """An attempt that is over, without what only a live one needs. What resuming needs stays."""
    kept: dict[str, Any] = {"recent": (), "flatness": Flatness()}
    if ending.state == "done":
        kept |= {"policies": (), "evaluating": {}, "chunks": frozenset(), "eval_chunks": frozenset()}
    return replace(run, ending=ending, **kept)
