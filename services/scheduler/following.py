"""What must be in the stream by now, given what is. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from flash.contracts.base import Event, Scope
from flash.contracts.keys import DATASET_CHUNK
from flash.contracts.plan import Plan
from flash.contracts.runs import (
    DatasetRequested,
    RunCancelled,
    RunCompleted,
    RunEvaluated,
    RunFailed,
    RunPlanned,
    RunRetried,
    RunStarted,
)
from flash.contracts.values import PolicyRef
from services.scheduler.planning import chunks_in_order, chunks_needed, rows_of_step
from services.scheduler.runs import Ending, Run

CHUNKS_ASKED = 8
"""Chunks of the dataset that are asked for at a time: each that comes says again what is missing."""


@dataclass(frozen=True)
class WantedGroup:
    """A group that a step needs, before its example is read from the store."""

    scope: Scope
    step: int
    group: int
    row: int
    policy: PolicyRef


def follows(run: Run) -> list[Event]:
    """What must be in the stream of a run whose turn it is, groups aside; saying it again does no harm."""
    if run.ending:
        return [] if run.ending.told else [_last_word(run, run.ending)]
    said = [*_remarks(run), *_datasets(run)]
    if run.plan is None:
        return said
    if not run.planned:
        said.append(_planned(run, run.plan))
    if run.spec.train and run.started_at is None and _can_start(run, run.plan):
        said.append(_started(run, run.plan))
    return said


def wanted_groups(run: Run, *, eval_window: int) -> Iterator[WantedGroup]:
    """The groups that should be under way now and are not yet known to be done."""
    if run.ending or run.plan is None:
        return
    if run.spec.train is None:
        yield from _evaluation_groups(run, run.plan, eval_window)
        return
    yield from _policy_groups(run, eval_window)
    if run.spec.algorithm == "grpo":
        yield from _training_groups(run, run.plan)


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
    for row in islice(open_rows, window):
        if row // DATASET_CHUNK not in run.chunks:
            return
        yield WantedGroup("eval", 1, row, row, run.spec.policy)


def _policy_groups(run: Run, window: int) -> Iterator[WantedGroup]:
    """Of the oldest policy of a training run that is to be evaluated."""
    if run.eval_rows is None or not run.evaluating:
        return
    version = min(run.evaluating)
    open = run.evaluating[version]
    for row in islice((row for row in range(run.eval_rows) if row not in open.scored), window):
        if row // DATASET_CHUNK not in run.eval_chunks:
            return
        yield WantedGroup("eval", version, row, row, open.policy)


def _datasets(run: Run) -> Iterator[Event]:
    """The chunks that are missing, the first of which tells how many there are."""
    spec = run.spec
    scope: Scope = "train" if spec.train else "eval"
    needed = chunks_in_order(spec, run.plan) if run.plan else [0]
    missing = (chunk for chunk in needed if chunk not in run.chunks)
    for chunk in islice(missing, CHUNKS_ASKED):
        yield _requested(run, scope, chunk)
    if spec.train is None or not spec.train.eval_every:
        return
    needed = chunks_needed(run.eval_rows) if run.eval_rows is not None else [0]
    for chunk in islice((chunk for chunk in needed if chunk not in run.eval_chunks), CHUNKS_ASKED):
        yield _requested(run, "eval", chunk)


def _remarks(run: Run) -> Iterator[Event]:
    """What is told of a run beside what moves it: whom it was lost to, what to look at, how good its policies are."""
    spec = run.spec
    for retry in run.retries:
        if retry.claim > run.retries_told:
            yield RunRetried(org=spec.org, run_id=spec.run_id, claim=retry.claim, step=retry.step, reason=retry.reason)
    yield from (warning for warning in run.warnings if warning.kind not in run.warnings_told)
    for version, open in run.evaluating.items():
        if run.eval_rows is not None and len(open.scored) >= run.eval_rows:
            yield RunEvaluated(org=spec.org, run_id=spec.run_id, step=version, metrics=open.tally.summary())


def _can_start(run: Run, plan: Plan) -> bool:
    if run.spec.algorithm == "sft":
        return all(chunk in run.chunks for chunk in chunks_needed(plan.rows))
    return all(row // DATASET_CHUNK in run.chunks for row in rows_of_step(plan, run.spec.seed, 1))


def _last_word(run: Run, ending: Ending) -> Event:
    org, run_id, attempt = run.spec.org, run.spec.run_id, run.attempt
    if ending.state == "failed":
        return RunFailed(org=org, run_id=run_id, attempt=attempt, reason=ending.reason, fault=ending.fault)
    if ending.state == "cancelled":
        return RunCancelled(org=org, run_id=run_id, attempt=attempt)
    metrics = run.tally.summary() if run.spec.algorithm == "eval" else dict(run.metrics)
    return RunCompleted(org=org, run_id=run_id, attempt=attempt, metrics=metrics)


def _planned(run: Run, plan: Plan) -> RunPlanned:
    return RunPlanned(
        org=run.spec.org, run_id=run.spec.run_id, rows=plan.rows, prompts_per_step=plan.prompts_per_step,
        steps=plan.steps,
    )  # fmt: skip


def _started(run: Run, plan: Plan) -> RunStarted:
    spec = run.spec
    return RunStarted(
        org=spec.org, run_id=spec.run_id, pool=spec.pool, attempt=run.attempt, steps=plan.steps,
        prompts_per_step=plan.prompts_per_step, rows=plan.rows,
    )  # fmt: skip


def _requested(run: Run, scope: Scope, chunk: int) -> DatasetRequested:
    return DatasetRequested(org=run.spec.org, run_id=run.spec.run_id, attempt=run.attempt, scope=scope, chunk=chunk)
