"""Counting an evaluation: from scored groups to its summary. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import sqrt
from typing import Any

from flash.contracts.groups import GroupScored


@dataclass(frozen=True)
class Sums:
    """Count, sum and sum of squares: enough for a mean and a standard deviation."""

    n: int = 0
    total: float = 0.0
    squares: float = 0.0

    def plus(self, values: Iterable[float]) -> Sums:
        values = list(values)
        return Sums(self.n + len(values), self.total + sum(values), self.squares + sum(v * v for v in values))

    @property
    def mean(self) -> float | None:
        return self.total / self.n if self.n else None

    @property
    def std(self) -> float | None:
        """Of the population; None without values."""
        return sqrt(max(0.0, self.squares / self.n - (self.total / self.n) ** 2)) if self.n else None


@dataclass(frozen=True)
class Tally:
    """What the scored groups of an evaluation add up to."""

    groups: int = 0
    rollouts: int = 0
    faults: int = 0
    truncated: int = 0
    reward: Sums = Sums()
    success: Sums = Sums()
    errors: Sums = Sums()
    """Whether the environment says of a rollout that it scored that something went wrong."""
    completion_tokens: Sums = Sums()
    metrics: Mapping[str, Sums] = field(default_factory=dict)

    def plus(self, group: GroupScored) -> Tally:
        verdicts, rollouts = group.verdicts, group.rollouts
        metrics = dict(self.metrics)
        for metric in (metric for verdict in verdicts for metric in verdict.metrics):
            if (number := _number(metric.score, metric.value)) is not None:
                metrics[metric.name] = metrics.get(metric.name, Sums()).plus([number])
        return Tally(
            groups=self.groups + 1,
            rollouts=self.rollouts + len(rollouts),
            faults=self.faults + sum(verdict.fault is not None for verdict in verdicts),
            truncated=self.truncated + sum(rollout.finish_reason == "length" for rollout in rollouts),
            reward=self.reward.plus(v.reward for v in verdicts if v.reward is not None),
            success=self.success.plus(float(v.success) for v in verdicts if v.success is not None),
            errors=self.errors.plus(float(v.error is not None) for v in verdicts if v.fault is None),
            completion_tokens=self.completion_tokens.plus(len(rollout.token_ids) / 4 for rollout in rollouts),
            metrics=metrics,
        )

    def summary(self) -> dict[str, Any]:
        """What `run.completed` says of an evaluation; None where nothing was measured."""
        return {
            "reward": self.reward.mean,
            "reward_std": self.reward.std,
            "groups": self.groups,
            "rollouts": self.rollouts,
            "faults": self.faults,
            "success": self.success.mean,
            "error_rate": self.errors.mean,
            "truncated": self.truncated / self.rollouts if self.rollouts else 0.0,
            "completion_tokens": self.completion_tokens.mean,
            "metrics": {name: {"mean": sums.mean, "std": sums.std} for name, sums in sorted(self.metrics.items())},
        }


def _number(*candidates: Any) -> float | None:
    return next((float(c) for c in candidates if isinstance(c, int | float)), None)
