"""From rewards to advantages. Pure: no bus, no store, no clock.

Legend: G rollouts of a group.
"""

import math
from collections.abc import Sequence
from typing import TypeGuard

TIE = 1e-6
"""Rewards of a group that differ by less than this share of the largest are alike: the rest is rounding."""


def advantages(rewards_G: Sequence[float | None]) -> list[float]:
    """[G] reward minus the mean of the group's rewards; not divided by their standard deviation.

    A fault (None, or a number that is none) is left out of the mean and has advantage 0.0. A group whose rewards are
    all alike, or that has fewer than two, gives exact zeros: rounding must not become a direction, which Adam would
    then take at full length.
    Source: Dr. GRPO, arXiv:2503.20783, section 3.2: dividing by the deviation favours the easiest and hardest prompts.
    """
    known = [reward for reward in rewards_G if is_scored(reward)]
    if is_flat(rewards_G):
        return [0.0] * len(rewards_G)
    mean = math.fsum(known) / len(known)
    return [reward - mean if is_scored(reward) else 0.0 for reward in rewards_G]


def is_flat(rewards_G: Sequence[float | None]) -> bool:
    """Nothing tells the group's rollouts apart, so that they teach nothing."""
    known = [reward for reward in rewards_G if is_scored(reward)]
    return len(known) < 2 or max(known) - min(known) <= TIE * max(1.0, *map(abs, known))


def is_scored(reward: float | None) -> TypeGuard[float]:
    return reward is not None and math.isfinite(reward)
