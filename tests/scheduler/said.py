"""What is said of a run, with whatever a test does not care about filled in."""

from typing import Any

from flash.contracts.base import RunEvent
from flash.contracts.groups import GroupScored
from flash.contracts.runs import (
    DatasetPrepared,
    RunCancelled,
    RunPlanned,
    RunResumed,
    RunStarted,
)
from flash.contracts.spec import EnvironmentSpec, RunSpec, SamplingSpec, TrainSpec
from flash.contracts.steps import StepClaimed, StepFinished
from flash.contracts.values import Example, Fault, PolicyRef, Rollout, Verdict
from services.scheduler.following import follows
from services.scheduler.runs import Run, after

ENVIRONMENT = EnvironmentSpec(id="local/sort", version="abc", digest="abc", key="k")
RAISED = Fault(kind="raised", message="ZeroDivisionError: division by zero")


def spec(algorithm: str = "grpo", **train: Any) -> RunSpec:
    knobs = {
        "lora_rank": 8, "lora_alpha": 16, "learning_rate": 1e-3, "batch_size": 2, "max_length": 64, "save_every": 5,
        "steps": 4, "max_lag": 1,
    } | train  # fmt: skip
    return RunSpec(
        org="local", run_id="r1", algorithm=algorithm, model="tiny", pool="tiny", seed=1,  # type: ignore[arg-type]
        environment=ENVIRONMENT, split="train",
        sampling=SamplingSpec(group_size=2, temperature=1.0, max_tokens=8) if algorithm != "sft" else None,
        train=TrainSpec(**knobs) if algorithm != "eval" else None,
    )  # fmt: skip


def run_after(*events: RunEvent, of: RunSpec | None = None) -> Run:
    run = Run(spec=of or spec(), submitted_at=0.0)
    for event in events:
        run = after(event, run)
    return run


def prepared(rows: int = 8, chunk: int = 0, **more: Any) -> DatasetPrepared:
    return DatasetPrepared(org="local", run_id="r1", chunk=chunk, rows=rows, key="d", **more)


def planned(run: Run) -> Run:
    [event] = [event for event in follows(run) if isinstance(event, RunPlanned)]
    return after(event, run)


def started() -> RunStarted:
    return RunStarted(org="local", run_id="r1", pool="tiny", attempt=1, steps=4, prompts_per_step=2, rows=8)


def finished(step: int, **more: Any) -> StepFinished:
    return StepFinished(
        org="local", run_id="r1", attempt=1, step=step, policy=PolicyRef(version=step, digest=f"d{step}"), **more
    )


def claimed(attempt: int) -> StepClaimed:
    return StepClaimed(org="local", run_id="r1", attempt=attempt, learner="l")


def flat(step: int, reward: float = 0.0, **more: Any) -> StepFinished:
    return finished(step, metrics={"reward": reward, "frac_zero_std": 1.0}, **{"rollouts": 4} | more)


def scored(group: int, rewards: list[float | None], step: int = 1) -> GroupScored:
    verdicts = [Verdict(reward=r, success=r > 0) if r is not None else Verdict(fault=RAISED) for r in rewards]
    return GroupScored(
        org="local", run_id="r1", scope="eval", step=step, group=group, example=Example(index=group, id="e", input="x"),
        policy=PolicyRef(), prompt_ids=b"", rollouts=[Rollout(token_ids=b"\0" * 8) for _ in rewards], verdicts=verdicts,
    )  # fmt: skip


def cancelled(attempt: int = 1) -> RunCancelled:
    return RunCancelled(org="local", run_id="r1", attempt=attempt)


def resumed(attempt: int = 2) -> RunResumed:
    return RunResumed(org="local", run_id="r1", attempt=attempt, resumed_at=9.0)


def evaluated_run(*events: RunEvent, rows: int = 2) -> Run:
    counted = prepared(rows=rows, scope="eval")
    return run_after(prepared(), counted, started(), claimed(1), *events, of=spec(eval_every=2))
