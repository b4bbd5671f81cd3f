"""A GRPO step's metrics, as far as the groups alone tell them. Pure.

Legend: G rollouts of a group.
"""

import math
from collections.abc import Iterable, Sequence
from statistics import fmean, pstdev
from typing import Any

from flash.contracts.groups import GroupScored
from flash.contracts.values import Fault, Metric
from services.learner.advantages import is_flat
from services.learner.batch import GroupBatch, rewards

PER_TURN = "per_turn_rewards"
"""Under this key of a reward's metadata an environment may say what each turn was worth."""
MOST_SAMPLES = 3
"""Faults that a step shows in full."""


def of_groups(groups: Sequence[GroupScored], batch: GroupBatch, step: int) -> dict[str, float]:
    """What the groups of a step say about the policy that played them.

    `reward` and `success` are over rollouts without a fault, and so is `error_rate`, the share of those of which the
    environment itself says that something went wrong; `reward_std` is the population's, within groups, averaged
    over them; `lag` is how many updates older than the step's own policy (version `step - 1`) the sampler's was.
    """
    rewards_of = [[reward for reward in rewards(group) if reward is not None] for group in groups]
    known = [reward for rewards_G in rewards_of for reward in rewards_G]
    played = [rollout for group in groups for rollout in group.rollouts if rollout.fault is None]
    advantages = [advantage for group in batch.groups for advantage in group.advantages]
    return {
        **_mean("reward", known),
        **_mean("reward_std", [pstdev(rewards_G) for rewards_G in rewards_of if rewards_G]),
        **_mean("success", (v.success for group in groups for v in group.verdicts if v.success is not None)),
        **_mean("error_rate", (v.error is not None for group in groups for v in group.verdicts if v.fault is None)),
        **_mean("frac_zero_std", [is_flat(rewards(group)) for group in groups]),
        **_mean("comp_len", [sum(rollout.mask) for rollout in played]),
        **_mean("turns", [len(rollout.turns) for rollout in played if rollout.turns]),
        **_mean("turn_len", [turn.tokens for rollout in played for turn in rollout.turns]),
        **_mean("think_len", (r.thinking_tokens for r in played if r.thinking_tokens is not None)),
        **_mean("trunc", [rollout.finish_reason == "length" for rollout in played]),
        **_mean("lag", [step - 1 - group.policy.version for group in groups]),
        "advantage_min": min(advantages, default=0.0),
        "advantage_max": max(advantages, default=0.0),
        **_named(metric for group in groups for verdict in group.verdicts for metric in verdict.metrics),
        **_per_turn(verdict.metadata.get(PER_TURN) for group in groups for verdict in group.verdicts),
    }


def fault_samples(faults: Iterable[Fault]) -> list[Fault]:
    """A few, each of another kind or message."""
    different = {(fault.kind, fault.message): fault for fault in reversed(list(faults))}
    return list(reversed(different.values()))[:MOST_SAMPLES]


def _named(metrics: Iterable[Metric]) -> dict[str, float]:
    """Mean and standard deviation of each metric that the environment names, over the rollouts that have it."""
    values: dict[str, list[float]] = {}
    for metric in metrics:
        value = metric.value if metric.score is None else metric.score
        if isinstance(value, int | float):
            values.setdefault(metric.name, []).append(float(value))
    figures = {}
    for name in sorted(values):
        figures[f"metric/{name}"] = fmean(values[name])
        figures[f"metric/{name}_std"] = pstdev(values[name])
    return figures


def _per_turn(lists: Iterable[Any]) -> dict[str, float]:
    """What environments say that each turn was worth, as `per_turn/1` and so on, over the rollouts that came so far."""
    figures = [values for values in lists if isinstance(values, list) and all(_is_figure(value) for value in values)]
    longest = max((len(values) for values in figures), default=0)
    means: dict[str, float] = {}
    for turn in range(longest):
        means |= _mean(f"per_turn/{turn + 1}", [values[turn] for values in figures if len(values) > turn])
    return means


def _is_figure(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _mean(name: str, values: Iterable[float]) -> dict[str, float]:
    """Nothing where there is nothing to average: a missing figure is not a zero."""
    listed = list(values)
    return {name: fmean(listed)} if listed else {}
