"""What the stream knows of a run's steps, and what the kernel of the machine knows of its learners."""

from pathlib import Path
from typing import Any

import pytest

from flash.contracts.steps import StepClaimed
from services.learner import machine
from services.learner.policy import SMALLEST_CUT, Cut
from services.learner.recorded import Recorded


def claim(attempt: int, memory_kills: int, where: str = "m1", **more: Any) -> StepClaimed:
    return StepClaimed(
        org="local", run_id="r1", attempt=attempt, learner="l", machine=where, memory_kills=memory_kills, **more
    )


@pytest.mark.parametrize(
    ("claims", "losses"),
    [
        ([claim(1, 4)], 0),
        ([claim(1, 4), claim(2, 4)], 0),  # killed by hand: the cut stays, and the adapter is bit for bit the same
        ([claim(1, 4), claim(2, 5)], 1),
        ([claim(1, 4), claim(2, 5), claim(3, 7)], 2),
        ([claim(1, 4), claim(2, 9, where="m2")], 0),
        ([claim(1, 0, where=""), claim(2, 1, where="")], 0),
    ],
)
def test_a_learner_that_the_kernel_killed_for_memory_is_told_apart(claims: list[StepClaimed], losses: int) -> None:
    assert Recorded.of(claims).memory_losses == losses


def test_each_such_loss_halves_what_passes_through_the_model_at_once() -> None:
    assert [Cut(1_024).halved(times).max_tokens for times in (0, 1, 3, 99)] == [1_024, 512, 128, SMALLEST_CUT]


def test_the_kernel_is_asked_what_it_has_killed(tmp_path: Path) -> None:
    counters = tmp_path / "vmstat"
    counters.write_text("nr_free_pages 12\noom_kill 3\n")

    assert machine.memory_kills(counters) == 3
    assert machine.memory_kills(tmp_path / "none") == 0
    assert machine.boot_id(tmp_path / "none") == ""
