"""What in a training run calls for a person, or for an end: faults, and rewards that teach nothing. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from flash.contracts.spec import PlatformSpec
from flash.contracts.steps import StepFinished

FAULT_WINDOW = 3
"""Over how many steps the share of faults is measured."""

Kind = Literal["all-zero", "no-variance"]


@dataclass(frozen=True)
class Flatness:
    """For how long no group has had anything to learn from: every reward as good as the others of its group."""

    steps: int = 0
    """In a row, up to the newest."""
    rollouts: int = 0
    """Of these steps."""
    zero_steps: int = 0
    """Those in a row, up to the newest, whose every reward was 0."""
    zero_rollouts: int = 0
    has_learned: bool = False
    """Some earlier step had something to learn from."""

    def after(self, step: StepFinished) -> Flatness:
        """Steps without a single reward say nothing about rewards."""
        share = step.metrics.get("frac_zero_std")
        if share is None or "reward" not in step.metrics:
            return self
        if share < 1.0:
            return Flatness(has_learned=True)
        is_zero = step.metrics["reward"] == 0.0
        return Flatness(
            steps=self.steps + 1,
            rollouts=self.rollouts + step.rollouts,
            zero_steps=self.zero_steps + 1 if is_zero else 0,
            zero_rollouts=self.zero_rollouts + step.rollouts if is_zero else 0,
            has_learned=self.has_learned,
        )

    def warning(self, platform: PlatformSpec) -> tuple[Kind, str] | None:
        """What a person should know, if anything."""
        if self.zero_steps >= platform.warn_flat_steps:
            return "all-zero", (
                f"every reward of the last {self.zero_steps} steps was 0: nothing is learned. Read some rollouts; "
                "easier rows, a graded reward or a look for a fault in the scorer help"
            )
        if self.steps >= platform.warn_flat_steps:
            return "no-variance", (
                f"in the last {self.steps} steps the rewards were alike within every group: nothing is learned. "
                + (
                    "The rows may be solved: harder ones help"
                    if self.has_learned
                    else "A graded reward, harder or easier rows, or a higher temperature help"
                )
            )
        return None


def faulty(recent: Sequence[StepFinished], max_faults: float) -> str:
    """Why the faults of the last steps end the run; empty: they do not.

    A package that cannot be loaded will not be loadable in the next step either, so that ends it at once.
    """
    samples = [fault for step in recent for fault in step.fault_samples]
    last = recent[-1] if recent else None
    if last and last.faults == last.rollouts and {fault.kind for fault in last.fault_samples} == {"load-failed"}:
        return f"the environment cannot be loaded any more: {samples[-1].message}"
    rollouts, faults = sum(step.rollouts for step in recent), sum(step.faults for step in recent)
    if len(recent) < FAULT_WINDOW or faults <= max_faults * rollouts:
        return ""
    told = f"; the last one {samples[-1].kind}: {samples[-1].message}" if samples else ""
    return (
        f"{faults} of the last {rollouts} rollouts were faults, more than train.max_faults = {max_faults:g} allows"
        f"{told}"
    )


def hopeless(flatness: Flatness, platform: PlatformSpec) -> str:
    """Why rewards that teach nothing end the run; empty: they do not.

    Rewards that are alike but not 0 end only a run that never had others: one that had may have solved its rows.
    """
    if flatness.zero_steps >= platform.stop_flat_steps and flatness.zero_rollouts >= platform.stop_flat_rollouts:
        return (
            f"every reward of the last {flatness.zero_steps} steps, {flatness.zero_rollouts} rollouts, was 0: "
            "there is nothing to learn from. Read some with `flash rollouts`, and give easier rows or a graded reward"
        )
    never = not flatness.has_learned and flatness.rollouts >= platform.stop_flat_rollouts
    if never and flatness.steps >= platform.stop_flat_steps:
        return (
            f"in all {flatness.steps} steps, {flatness.rollouts} rollouts, the rewards were alike within every group: "
            "there is nothing to learn from. Read some with `flash rollouts`, and give a graded reward"
        )
    return ""


def overdue(started_at: float | None, now: float, platform: PlatformSpec) -> str:
    """Why the clock ends an attempt; empty: it does not."""
    if started_at is None or now - started_at <= platform.wall_clock_s:
        return ""
    return (
        f"it has run for longer than {platform.wall_clock_s / 3600:g} h, which this platform allows; its checkpoints "
        "are kept, and `flash resume` goes on from the newest"
    )
