"""What a learner says about a run. One learner at a time: the noun `step` is fenced."""

from typing import ClassVar

import msgspec

from flash.contracts.base import RunEvent, Token
from flash.contracts.values import Fault, PolicyRef


class StepEvent(RunEvent, frozen=True, kw_only=True):
    """Something a learner says while it holds the run."""

    fence: ClassVar[int | None] = 2  # over (org, run_id)

    attempt: int
    """Which claim of the run this teller made."""


class StepClaimed(StepEvent, frozen=True, kw_only=True):
    """A learner has taken the run; whoever held it before is silent from here on."""

    name: ClassVar[str] = "step.claimed.v1"
    address: ClassVar[tuple[str, ...]] = ("org", "run_id", "attempt")

    learner: str
    """The replica."""
    reason: str = ""
    """Why the one before it has lost the run, where this one knows."""
    machine: str = ""
    """Where it runs, as the kernel names this boot."""
    memory_kills: int = 0
    """How many processes the kernel of that machine had killed by then for want of memory."""


class TrainedGroup(msgspec.Struct, frozen=True, kw_only=True):
    """A group as the update used it."""

    group: int
    """Its index within the step."""
    advantages: list[float]
    """[G]; 0.0 for a faulted rollout."""


class StepFinished(StepEvent, frozen=True, kw_only=True):
    """The policy has a new version; step 0 is the start policy."""

    name: ClassVar[str] = "step.finished.v1"
    address: ClassVar[tuple[str, ...]] = ("org", "run_id", "step")

    step: int
    policy: PolicyRef
    """The adapter after this step; `policy.version == step`."""
    groups: list[TrainedGroup] = []
    metrics: dict[str, float] = {}
    rollouts: int = 0
    """How many rollouts the step's groups held."""
    faults: int = 0
    """How many of them were faults."""
    fault_samples: list[Fault] = []
    """At most three, each of another kind or message."""
    micro_batch: int = 0
    """How the step was cut, and with how many threads it ran: what a replay must obey to be bit for bit the same."""
    threads: int = 1


class StepSaved(StepEvent, frozen=True, kw_only=True):
    """A checkpoint is in the store."""

    name: ClassVar[str] = "step.saved.v1"
    address: ClassVar[tuple[str, ...]] = ("org", "run_id", "step")

    step: int
    key: str
    """The checkpoint's folder in the store."""
    policy: PolicyRef
    final: bool = False


class StepDiverged(StepEvent, frozen=True, kw_only=True):
    """A replayed step gave another adapter than it gave the first time (GPU kernels may)."""

    name: ClassVar[str] = "step.diverged.v1"
    address: ClassVar[tuple[str, ...]] = ("org", "run_id", "attempt", "step")

    step: int
    recorded: PolicyRef
    policy: PolicyRef


class TrainingFailed(RunEvent, frozen=True, kw_only=True):
    """A learner cannot train this run, however often it tries."""

    name: ClassVar[str] = "training.failed.v1"
    address: ClassVar[tuple[str, ...]] = ("org", "run_id", "attempt")

    attempt: int
    """Of the run, as `run.started` has it."""
    reason: str
    pool: Token = "unknown"
