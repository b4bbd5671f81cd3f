"""What runs have used is added up by day, run and organisation. That it counts once: test_writing.py."""

from typing import Any

import pytest

from flash.contracts.usage import UsageSum, Used
from services.recorder.usage import MOST_ROWS, RunUsage, summed

KNOWN = {
    "acme.r1": RunUsage(upto=10, days={"2026-11-20": Used(runs=1, steps=2), "2026-11-21": Used(steps=3, rollouts=8)}),
    "acme.r2": RunUsage(upto=30, days={"2026-11-21": Used(runs=1, sampled_tokens=100, trained_tokens=70)}),
    "other.r3": RunUsage(upto=20, days={"2026-11-19": Used(runs=1, steps=1)}),
}


def rows(**asked: Any) -> dict[str, Used]:
    """As they are sorted."""
    return {row.name: row.used for row in summed(KNOWN, UsageSum(org=None, **asked)).rows}


def test_a_row_for_each_day_the_newest_first() -> None:
    found = rows(by="day")

    assert list(found) == ["2026-11-21", "2026-11-20", "2026-11-19"]
    assert found["2026-11-21"] == Used(runs=1, steps=3, rollouts=8, sampled_tokens=100, trained_tokens=70)


def test_a_row_for_each_run_the_one_that_was_heard_of_last_first() -> None:
    found = rows(by="run")

    assert list(found) == ["r2", "r3", "r1"]
    assert found["r1"] == Used(runs=1, steps=5, rollouts=8)


def test_a_row_for_each_organisation_by_name() -> None:
    assert {name: used.runs for name, used in rows(by="org").items()} == {"acme": 2, "other": 1}


def test_only_days_from_the_first_that_is_asked_for_count() -> None:
    found = summed(KNOWN, UsageSum(org=None, by="run", since="2026-11-21"))

    assert {row.name: row.used.steps for row in found.rows} == {"r2": 0, "r1": 3}
    assert found.total.steps == 3


def test_the_total_is_of_all_rows_whichever_of_them_are_asked_for() -> None:
    found = summed(KNOWN, UsageSum(org=None, by="run", limit=1, offset=1))

    assert ([row.name for row in found.rows], found.count, found.total.runs) == (["r3"], 3, 3)
    many = {f"acme.r{n}": RunUsage(upto=n, days={"2026-11-21": Used(runs=1)}) for n in range(MOST_ROWS + 1)}
    assert len(summed(many, UsageSum(org="acme", by="run", limit=10_000)).rows) == MOST_ROWS


@pytest.mark.parametrize(("org", "about"), [("acme", ("acme",)), (None, ("every organisation",))])
def test_whoever_is_not_the_operator_asks_about_their_own(org: str | None, about: tuple[str, ...]) -> None:
    """An organisation of that name cannot be: see `flash.access.require`."""
    assert UsageSum(org=org).orgs() == about
