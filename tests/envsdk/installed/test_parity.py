"""Environments earn through Flash's hooks what they earn with the real package alone."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[2]


@pytest.mark.slow
@pytest.mark.parametrize("release", ["0.3.1", pytest.param("0.1.10", marks=pytest.mark.long)])
def test_a_package_earns_what_it_earns_alone(
    python_with: Callable[[str], str], told_by: Callable[..., Any], release: str
) -> None:
    told = told_by(python_with(release), HERE / "samples.py", path=(ROOT,))

    assert len(told) == 11
    for case, (theirs, ours) in told.items():
        for expected, found in zip(theirs, ours, strict=True):
            for alone, played in zip(expected, found, strict=True):
                assert "fault" not in played, (case, played["fault"])
                assert played["reward"] == pytest.approx(alone["reward"], abs=1e-12), case
                assert {metric["name"]: metric["score"] for metric in played["metrics"]} == alone["metrics"], case
                for ours_of_it, theirs_of_it in zip(seen(played["messages"]), seen(alone["messages"]), strict=False):
                    assert ours_of_it == theirs_of_it, case


def seen(messages: list[Any]) -> list[Any]:
    """What everybody but the policy said, in its place."""
    found = [list(m)[:2] if isinstance(m, list) else [m["role"], m["content"]] for m in messages]
    return [text if role != "assistant" else None for role, text in found]
