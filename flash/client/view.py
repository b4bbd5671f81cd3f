"""A run as its facts tell it: what `flash status` shows. Pure but for `view`."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import Any

from flash.bus import Bus
from flash.client.following import told_so_far
from flash.contracts.requests import RecordedEvent
from flash.errors import NotFound

PACE_STEPS = 20
"""Over how many steps a run's pace is measured."""
FAULT_SAMPLES = 3
"""How many faults, each of another kind or message, are kept to be shown."""


@dataclass(frozen=True)
class Save:
    """A checkpoint that is in the store."""

    step: int
    policy: dict[str, Any]
    """The fields of its PolicyRef."""
    final: bool


@dataclass(frozen=True)
class Evaluated:
    """How good a policy was."""

    step: int
    metrics: dict[str, Any]


@dataclass(frozen=True)
class RunView:
    """What is known of a run."""

    run_id: str
    state: str = "unknown"
    """queued, planning, running, done, failed, cancelled."""
    spec: dict[str, Any] = field(default_factory=dict)
    """The fields of its RunSpec."""
    rows: int = 0
    steps: int = 0
    step: int = 0
    """The last finished one; of an evaluation, the groups that are scored."""
    metrics: dict[str, Any] = field(default_factory=dict)
    """Of the last step; of an evaluation, its summary."""
    rewards: tuple[float, ...] = ()
    """The mean reward of each finished step, where it has one."""
    rollouts: int = 0
    faults: int = 0
    fault_samples: tuple[dict[str, Any], ...] = ()
    saves: tuple[Save, ...] = ()
    reason: str = ""
    waiting_for: str = ""
    submitted_at: float = 0.0
    ended_at: float = 0.0
    """Seconds since the epoch; 0: not yet."""
    attempt: int = 1
    """The first, and one more each time the run was resumed."""
    retries: tuple[str, ...] = ()
    """Why the run changed hands, one reason a time."""
    warnings: tuple[str, ...] = ()
    """What a person should look at, of this attempt."""
    evaluations: tuple[Evaluated, ...] = ()
    """Of a training run's policies on its evaluation split, in the order they were told."""

    finished_at: tuple[float, ...] = ()
    """When each of the last few steps was finished."""

    @property
    def remaining_s(self) -> float | None:
        """How long the run will take yet, at the pace of its last steps; None where that cannot be told."""
        if self.is_over or len(self.finished_at) < 2 or not self.steps:
            return None
        pace_s = (self.finished_at[-1] - self.finished_at[0]) / (len(self.finished_at) - 1)
        return pace_s * (self.steps - self.step)

    @property
    def is_over(self) -> bool:
        return self.state in ("done", "failed", "cancelled")

    @property
    def checkpoint(self) -> str:
        """The reference of the newest save, `RUN/step-N`; empty where there is none."""
        return f"{self.run_id}/step-{self.saves[-1].step}" if self.saves else ""


async def view(bus: Bus, run_id: str) -> RunView:
    """What is known of a run now. Raises NotFound for one that nothing was ever said about."""
    events = await told_so_far(bus, run_id)
    if not events:
        raise NotFound(f"there is no run {run_id}: `flash runs` lists them")
    seen = folded(RunView(run_id), events)
    if seen.spec.get("algorithm") == "eval":
        return folded(seen, await told_so_far(bus, run_id, nouns=["group"]))
    return seen


def folded(seen: RunView, events: Iterable[RecordedEvent]) -> RunView:
    """The view after these facts."""
    return reduce(after, events, seen)


def after(seen: RunView, event: RecordedEvent) -> RunView:
    """The view after one more fact."""
    body = event.body
    match event.event.rsplit(".", 1)[0]:
        case "run.submitted":
            return replace(
                seen,
                state="queued",
                spec=body["spec"],
                submitted_at=body["submitted_at"],
                waiting_for="its turn",
            )
        case "dataset.requested":
            preparing = "a scorer to prepare its dataset"
            return replace(seen, state="planning", waiting_for=preparing) if seen.state == "queued" else seen
        case "dataset.failed":
            return _with_faults(seen, [body["fault"]], counted=0)
        case "run.planned":
            return replace(seen, state="planning", rows=body["rows"], steps=body["steps"], waiting_for="")
        case "run.started":
            return replace(seen, state="planning", waiting_for=f"a learner of pool {body['pool']}")
        case "step.claimed":
            return seen if seen.is_over else replace(seen, state="running", waiting_for="")
        case "run.retried":
            return replace(seen, retries=(*seen.retries, body["reason"]))
        case "run.warned":
            return replace(seen, warnings=(*seen.warnings, body["message"]))
        case "run.evaluated":
            return replace(seen, evaluations=(*seen.evaluations, Evaluated(body["step"], body["metrics"])))
        case "run.resumed":
            return replace(
                seen,
                state="queued",
                attempt=body["attempt"],
                reason="",
                waiting_for="its turn",
                ended_at=0.0,
                warnings=(),
                finished_at=(),
            )
        case "step.finished":
            return _stepped(seen, body, event.time)
        case "step.saved":
            save = Save(step=body["step"], policy=body["policy"], final=body["final"])
            others = tuple(kept for kept in seen.saves if kept.step != save.step)
            return replace(seen, saves=tuple(sorted((*others, save), key=lambda kept: kept.step)))
        case "group.scored" if body["scope"] == "eval":
            faults = [verdict["fault"] for verdict in body["verdicts"] if verdict.get("fault")]
            seen = replace(seen, rollouts=seen.rollouts + len(body["verdicts"]))
            return _with_faults(replace(seen, step=seen.step + 1), faults)
        case "run.cancel-requested":
            return seen if seen.is_over else replace(seen, waiting_for="the services to let go of it")
        case "run.completed":
            return replace(_over(seen, "done", event.time), metrics=body["metrics"] or seen.metrics)
        case "run.failed":
            seen = _with_faults(_over(seen, "failed", event.time), [body["fault"]] if body["fault"] else [], counted=0)
            return replace(seen, reason=body["reason"])
        case "run.cancelled":
            return _over(seen, "cancelled", event.time)
        case _:
            return seen


def _stepped(seen: RunView, body: dict[str, Any], at: float) -> RunView:
    if body["step"] == 0:  # the start policy: nothing was trained yet
        return seen if seen.is_over else replace(seen, state="running", waiting_for="")
    reward = body["metrics"].get("reward")
    seen = replace(
        seen,
        step=max(seen.step, body["step"]),
        metrics=body["metrics"],
        finished_at=(*seen.finished_at, at)[-PACE_STEPS:],
        rewards=(*seen.rewards, reward) if reward is not None else seen.rewards,
        rollouts=seen.rollouts + body["rollouts"],
    )
    return _with_faults(seen, body["fault_samples"], counted=body["faults"])


def _with_faults(seen: RunView, faults: list[dict[str, Any]], *, counted: int | None = None) -> RunView:
    samples = seen.fault_samples
    for fault in faults:
        alike = any(kept["kind"] == fault["kind"] and kept["message"] == fault["message"] for kept in samples)
        if not alike and len(samples) < FAULT_SAMPLES:
            samples = (*samples, fault)
    return replace(seen, faults=seen.faults + (len(faults) if counted is None else counted), fault_samples=samples)


def _over(seen: RunView, state: str, at: float) -> RunView:
    return replace(seen, state=state, waiting_for="", ended_at=at)
