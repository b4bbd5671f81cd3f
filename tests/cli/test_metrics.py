"""Metrics as people read them: cli/metrics.py."""

import pytest

from cli.metrics import curve, evaluation, number, row
from cli.output import ago


def test_a_metric_row_has_a_fixed_order_and_leaves_out_what_was_not_told() -> None:
    metrics = {
        "lag": 1.0,
        "reward": 0.53125,
        "kl": 0.00012345,
        "frac_zero_std": 0.0,
        "something": 3.0,
        "pickup_s": 0.41,
    }

    assert row("grpo", 3, metrics) == "step=3 reward=0.5312 kl=0.0001234 frac_zero_std=0 lag=1 pickup_s=0.41"


def test_an_sft_row_shows_the_loss() -> None:
    metrics = {"tokens": 512, "epoch": 0.5, "loss": 1.25, "learning_rate": 2e-4}

    assert row("sft", 4, metrics) == "step=4 epoch=0.5 loss=1.25 learning_rate=0.0002 tokens=512"


@pytest.mark.parametrize(("value", "text"), [(1.0, "1"), (123456.0, "123456"), (0.123456, "0.1235"), (True, "True")])
def test_a_number_has_at_most_four_digits_that_matter(value: float, text: str) -> None:
    assert number(value) == text


def test_a_curve_rises_with_its_values_and_averages_what_does_not_fit() -> None:
    assert curve([0.0, 1.0]) == "▁█"
    assert curve([0.5, 0.5]) == "▁▁"
    assert curve([0.0, 0.0, 1.0, 1.0], width=2) == "▁█"
    assert curve([]) == ""


def test_an_evaluation_is_told_line_by_line() -> None:
    summary = {
        "reward": 0.725, "reward_std": 0.154, "rollouts": 30, "faults": 2, "success": 0.5, "truncated": 0.1,
        "completion_tokens": 42.25, "metrics": {"exact": {"mean": 0.5, "std": 0.5}}, "error_rate": 0.25,
    }  # fmt: skip

    assert evaluation(summary) == [
        "Reward: 0.72 ± 0.15",
        "Success: 50.0%",
        "exact: 0.50 ± 0.50",
        "Faults: 2 of 30 rollouts",
        "Errors that the environment tells of: 25.0%",
        "Truncated: 10.0%",
        "Tokens per answer: 42.2",
    ]


def test_an_evaluation_of_nothing_but_faults_says_so() -> None:
    assert evaluation({"reward": None, "rollouts": 3, "faults": 3}) == [
        "Reward: none was given",
        "Faults: 3 of 3 rollouts",
    ]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0s"), (59, "59s"), (125, "2m 05s"), (3_840, "1h 04m"), (180_000, "2d 02h")]
)
def test_a_span_of_time_has_its_two_largest_units(seconds: float, text: str) -> None:
    assert ago(seconds) == text
