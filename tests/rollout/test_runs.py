"""What a rollout service keeps in mind about runs."""

import pytest

from flash.contracts.values import PolicyRef
from services.rollout import runs
from services.rollout.runs import Runs


def test_nobody_having_said_anything_is_told_apart_from_a_run_that_lives() -> None:
    known = Runs()
    known.heard(("local", "alive"), over=0)
    known.heard(("local", "dead"), over=1)
    known.heard(("local", "dead"), over=0)  # an answer from before the end

    assert [known.is_over(("local", run), 1) for run in ("alive", "dead", "unknown")] == [False, True, None]


def test_the_next_attempt_of_a_run_that_is_over_lives() -> None:
    known = Runs()
    known.heard(("local", "r1"), over=1)

    assert [known.is_over(("local", "r1"), attempt) for attempt in (1, 2)] == [True, False]


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "REMEMBERED", 2)
    known = Runs()

    for run in ("a", "b", "c"):
        known.heard(("local", run), over=1)
        known.told(("local", run), PolicyRef(version=1))

    assert [known.is_over(("local", run), 1) for run in ("a", "b", "c")] == [None, True, True]
