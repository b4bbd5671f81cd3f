"""Classic environments earn here what they earn with the real package."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[2]


@pytest.mark.slow
def test_classic_environments_earn_what_they_earn_with_the_real_package(
    python_with: Callable[[str], str], told_by: Callable[..., Any], endpoint: Any
) -> None:
    theirs = told_by(python_with("0.3.1"), HERE / "classic.py", endpoint.url)
    ours = told_by(sys.executable, HERE / "classic.py", endpoint.url, path=(ROOT,))

    assert theirs.keys() == ours.keys()
    for case, rollouts in theirs.items():
        expected, found = in_order(rollouts), in_order(ours[case])
        assert [seen(rollout) for rollout in found] == [seen(rollout) for rollout in expected], case
        for mine, other in zip(found, expected, strict=True):
            assert mine["reward"] == pytest.approx(other["reward"], abs=1e-12), (case, mine["completion"])
            # Functions of one name have a metric each here, and one sum there; one turn is no figure worth a line.
            assert {name: metric(mine, name) for name in other["metrics"] if name in mine["metrics"]} == pytest.approx(
                {name: value for name, value in other["metrics"].items() if name in mine["metrics"]}
            ), case
            assert other["metrics"].keys() - mine["metrics"].keys() <= {"num_turns"}, case


def metric(rollout: dict[str, Any], name: str) -> float:
    return sum(value for key, value in rollout["metrics"].items() if key in (name, f"{name}_2"))


def in_order(rollouts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """By what was said: the endpoint answers whoever asks first."""
    return sorted(rollouts, key=lambda rollout: json.dumps([rollout["prompt"], rollout["completion"]]))


def seen(rollout: dict[str, Any]) -> Any:
    return [rollout[field] for field in ("prompt", "completion", "stop", "error")]
