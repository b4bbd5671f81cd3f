"""From rewards to advantages, against numbers worked out by hand."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.learner.advantages import advantages, is_flat

REWARDS = st.lists(st.floats(-10, 10, width=32), min_size=2, max_size=8)


def test_an_advantage_is_the_reward_minus_the_groups_mean() -> None:
    assert advantages([1.0, 0.0, 0.0, 0.0]) == [0.75, -0.25, -0.25, -0.25]


def test_one_win_in_eight_is_seven_eighths_as_nothing_is_divided_by_the_deviation() -> None:
    assert advantages([1.0] + [0.0] * 7)[0] == 0.875


def test_a_fault_is_not_a_reward_of_zero() -> None:
    assert advantages([1.0, 0.0, None, math.nan, math.inf]) == [0.5, -0.5, 0.0, 0.0, 0.0]


@pytest.mark.parametrize(
    "rewards", [[0.1] * 8, [0.1 + 1e-7, *[0.1] * 7], [None, 1.0], [None, None], [], [1e6, 1e6 + 0.5]]
)
def test_what_tells_nothing_apart_has_exactly_no_advantage(rewards: list[float | None]) -> None:
    assert is_flat(rewards)
    assert advantages(rewards) == [0.0] * len(rewards)


@given(REWARDS)
def test_advantages_of_a_group_add_up_to_nothing(rewards: list[float]) -> None:
    assert sum(advantages(rewards)) == pytest.approx(0.0, abs=1e-6)


@given(REWARDS, st.floats(-5, 5))
def test_shifting_every_reward_changes_nothing_and_scaling_scales(rewards: list[float], shift: float) -> None:
    if max(rewards) - min(rewards) < 1e-3:
        return

    assert advantages([reward + shift for reward in rewards]) == pytest.approx(advantages(rewards), abs=1e-6)
    assert advantages([3 * reward for reward in rewards]) == pytest.approx([3 * a for a in advantages(rewards)])


@given(REWARDS, st.randoms())
def test_the_order_of_a_group_does_not_matter(rewards: list[float], shuffler: object) -> None:
    order = list(range(len(rewards)))
    shuffler.shuffle(order)  # type: ignore[attr-defined]
    before = advantages(rewards)

    assert advantages([rewards[i] for i in order]) == [before[i] for i in order]
