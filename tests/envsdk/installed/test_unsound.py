"""What goes wrong in an environment of the real package is a fault, and a fault of its own rollout only."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def told(python_with: Callable[[str], str], told_by: Callable[..., Any]) -> dict[str, Any]:
    found: dict[str, Any] = told_by(python_with("0.3.1"), HERE / "unsound.py", path=(HERE.parents[2],))
    return found


pytestmark = pytest.mark.slow


def seen(rollouts: list[dict[str, Any]]) -> list[Any]:
    """What each earned, or its fault."""
    return [
        f"{one['fault']['kind']}: {one['fault']['message']}" if "fault" in one else one["reward"] for one in rollouts
    ]


def test_what_the_package_logs_and_counts_as_0_is_a_fault(told: dict[str, Any]) -> None:
    assert seen(told["reward"]) == [
        "raised: KeyError: 'gone'",
        "invalid-result: odd gave None, wanted a finite number",
        "invalid-result: odd gave nan, wanted a finite number",
        "invalid-result: odd gave 'much', wanted a finite number",
        0.5,
        1.0,
        -1.0,
    ], "an answer without text is the policy's, and the reward function's to judge"
    assert "in odd" in told["reward"][0]["fault"]["traceback"]
    assert "missing 1 required positional argument: 'nobody_gives_this'" in seen(told["missing"])[0]


def test_a_metric_of_weight_0_that_fails_costs_no_reward(told: dict[str, Any]) -> None:
    [scored] = told["metric"]

    assert scored["reward"] == 1.0
    assert [(metric["name"], metric["score"], metric["reason"]) for metric in scored["metrics"]] == [
        ("correct", 1.0, None),
        ("broken", None, "ZeroDivisionError: division by zero"),
        ("not_a_number", None, "NoRewardError: not_a_number gave nan, wanted a finite number"),
        ("num_turns", 1.0, None),
    ]


def test_a_raise_in_a_group_costs_its_own_answer_and_a_short_list_costs_all(told: dict[str, Any]) -> None:
    assert seen(told["one_of_a_group"]) == [3.0, "raised: ValueError: could not convert string to float: 'x'", 3.0]
    assert seen(told["group_function"]) == [
        "invalid-result: short gave 1 numbers for 2 rollouts, wanted one for each"
    ] * 2  # fmt: skip


def test_an_error_of_the_environment_ends_its_own_rollout(told: dict[str, Any]) -> None:
    bug, infra, left, *sound = seen(told["turns"])

    assert (bug, infra, left) == (
        "raised: ValueError: a bug", "raised: InfraError: no machine", "raised: SystemExit: 3",
    )  # fmt: skip
    assert sound == [3.06, 3.06, 1.01], "the last one was cut short by us, and is scored by what it had"
    assert seen(told["stopping_tool"]) == ["raised: ToolCallError: ZeroDivisionError: division by zero", 1.0]


def test_conversations_that_do_not_only_grow_are_refused(told: dict[str, Any]) -> None:
    assert "changed what was said before" in seen(told["rewritten"])[0]
    assert "asks the policy twice at once" in seen(told["twice_at_once"])[0]


def test_thoughts_are_apart_unless_a_parser_wants_to_see_their_tags(told: dict[str, Any]) -> None:
    assert told["thoughts"] == [["4", "why"], ["<think>why</think>4", None]]
    assert told["steps_of_thoughts"] == [["b", "a"]]


def test_a_row_that_the_package_refuses_is_found_when_it_is_rendered(told: dict[str, Any]) -> None:
    assert "Plain string task routes are no longer supported" in told["refused_row"]


def test_the_package_knows_which_answers_were_cut(told: dict[str, Any]) -> None:
    assert told["cut"] == [1.0, 0.0]


def test_a_rollout_whose_time_is_up_is_over_and_one_that_nobody_plays_is_gone(told: dict[str, Any]) -> None:
    assert told["out_of_time"] is True
    assert told["left_behind"] == [0, 0]
