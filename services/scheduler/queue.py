"""Whose turn it is, and what a run waits for. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from flash.contracts.base import Token
from flash.contracts.requests import RunState
from services.scheduler.runs import Run

GIB = 2**30


@dataclass(frozen=True)
class Surroundings:
    """What the scheduler knows of the machines, beside what is said about runs."""

    serving: Mapping[str, frozenset[Token]] | None = None
    """The pools of which somebody answers, by service; the empty one where a service has none. None: nobody has looked.
    """
    coming: Mapping[str, frozenset[Token]] = field(default_factory=dict)
    """The same of those who only warm up."""
    free_bytes: int | None = None
    """Of the disk that this stack writes to; None: it is not on this machine."""
    wanted_bytes: int = 0
    """Below this nothing new is begun."""
    obstacles: Mapping[str, str] = field(default_factory=dict)
    """By run: why what should have been said could not be."""

    @property
    def disk_is_full(self) -> bool:
        return self.free_bytes is not None and self.free_bytes < self.wanted_bytes


def queue(live: Iterable[Run], org: str) -> list[Run]:
    """The training runs of an organisation that have not begun, the next one first."""
    waiting = (run for run in live if run.spec.org == org and run.spec.train and not run.admitted and not run.ending)
    return sorted(waiting, key=lambda run: run.place)


def admitted(live: Iterable[Run], around: Surroundings, *, most: int) -> set[str]:
    """The runs whose turn it is: at most so many training runs of an organisation at a time, in the order in which they
    were queued, and evaluations at any time; those that have begun go on. A full disk lets nobody begin.
    """
    live = [run for run in live if not run.ending]
    begun = {run.spec.run_id for run in live if run.admitted}
    if around.disk_is_full:
        return begun
    at_work = Counter(run.spec.org for run in live if run.admitted and run.spec.train)
    for org in {run.spec.org for run in live}:
        begun |= {run.spec.run_id for run in queue(live, org)[: max(0, most - at_work[org])]}
    return begun | {run.spec.run_id for run in live if run.spec.train is None}


def described(run: Run, live: Iterable[Run], around: Surroundings, *, most: int) -> RunState:
    """The run in one line, with what it waits for."""
    spec = run.spec
    position, waiting_for = (0, "") if run.ending else _waits(run, list(live), around, most)
    return RunState(
        run_id=spec.run_id,
        state=run.state,
        algorithm=spec.algorithm,
        model=spec.model,
        environment=f"{spec.environment.id}@{spec.environment.version}",
        submitted_at=run.submitted_at,
        step=max(run.step, 0) if spec.train else len(run.scored),
        steps=(run.plan.steps if spec.train else run.plan.rows) if run.plan else 0,
        reason=run.ending.reason if run.ending else "",
        name=spec.name,
        waiting_for=waiting_for,
        position=position,
        attempt=run.attempt,
        retries=[retry.reason for retry in run.retries],
        warnings=[warning.message for warning in run.warnings],
        ended_at=run.ending.at if run.ending else 0.0,
    )


def _waits(run: Run, live: list[Run], around: Surroundings, most: int) -> tuple[int, str]:
    """The position in a queue (0: in none), and what is waited for (empty: nothing)."""
    spec = run.spec
    if obstacle := around.obstacles.get(spec.run_id):
        return 0, obstacle
    if not run.admitted:
        return _turn(run, live, around, most)
    if run.plan is None or (run.started_at is None and spec.train):
        return 0, "a scorer to prepare its dataset" + _nobody(around, "scorer")
    if spec.train and not run.claimed:
        return _learner(run, live, around)
    if spec.sampling or run.evaluating:
        if missing := _nobody(around, "rollout", run):
            return 0, f"a rollout of pool {spec.pool}{missing}"
        if missing := _nobody(around, "scorer"):
            return 0, f"a scorer{missing}"
    if run.saved:
        return 0, f"the evaluation of step {min(run.evaluating, default=run.step)}"
    return 0, ""


def _turn(run: Run, live: list[Run], around: Surroundings, most: int) -> tuple[int, str]:
    if around.disk_is_full:
        assert around.free_bytes is not None
        return 0, (
            f"disk: {around.free_bytes / GIB:.1f} GiB are free and {around.wanted_bytes / GIB:.1f} GiB are wanted: "
            "make room, and it goes on"
        )
    waiting = [other.spec.run_id for other in queue(live, run.spec.org)]
    if run.spec.run_id not in waiting:
        return 0, "a scorer to prepare its dataset" + _nobody(around, "scorer")
    position = waiting.index(run.spec.run_id) + 1
    at_work = sum(other.admitted and other.spec.org == run.spec.org and other.spec.train is not None for other in live)
    if position <= most - at_work:
        return 0, "a scorer to prepare its dataset" + _nobody(around, "scorer")
    return position, f"its turn: position {position} in the queue of {run.spec.org}, of which {most} run at a time"


def _learner(run: Run, live: list[Run], around: Surroundings) -> tuple[int, str]:
    ahead = [
        other
        for other in live
        if other.spec.pool == run.spec.pool and other.spec.train and other.started_at is not None and not other.claimed
        if not other.ending
    ]
    ahead.sort(key=lambda other: (other.started_at or 0.0, other.place))
    position = [other.spec.run_id for other in ahead].index(run.spec.run_id) + 1
    wanted = f"a learner of pool {run.spec.pool}"
    if missing := _nobody(around, "learner", run):
        return position, wanted + missing
    return position, f"{wanted}: position {position}"


def _nobody(around: Surroundings, service: str, run: Run | None = None) -> str:
    """What to add where no replica of a service, or none that serves the run's model, is there."""
    pool = run.spec.pool if run else ""
    if around.serving is None or pool in around.serving.get(service, frozenset()):
        return ""
    if pool in around.coming.get(service, frozenset()):
        return ", and one is warming up"
    start = f"`flash up --model {run.spec.model}` starts one" if run else "`flash ps` shows what is"
    return f", and none is running: {start}"
