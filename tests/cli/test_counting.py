"""`flash usage`."""

import json
from pathlib import Path
from typing import Any

import pytest

from cli import output
from cli.__main__ import main

Capture = pytest.CaptureFixture[str]


def test_usage_is_told_by_day_in_all_its_rows_and_in_sum(project: Path, fake_stack: Any, capsys: Capture) -> None:
    assert main(["usage", "-n", "0"]) == 0

    told = json.loads(capsys.readouterr().out)
    assert (told["by"], told["count"], told["total"]["runs"]) == ("day", 2, 3)
    assert [(row["name"], row["used"]["sampled_tokens"]) for row in told["rows"]] == [
        ("2026-11-22", 2000), ("2026-11-21", 1000),
    ]  # fmt: skip
    assert {asked.org for asked in fake_stack.counted} == {"local"}


def test_on_a_terminal_it_is_a_table_with_a_sum(
    project: Path, fake_stack: Any, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output, "wants_json", lambda options: False)
    monkeypatch.setenv("TERM", "dumb")

    assert main(["usage"]) == 0

    head, *rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert head[:2] == ["DAY", "RUNS"]
    assert rows == [
        ["2026-11-22", "2", "0", "0", "2,000", "0"], ["2026-11-21", "1", "0", "0", "1,000", "0"],
        ["all", "3", "0", "0", "3,000", "0"],
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("words", "org"),
    [(["--by", "org"], None), (["--by", "org", "--org", "acme"], "acme"), (["--by", "run"], "local")],
)
def test_whoever_runs_the_stack_sees_every_organisation(
    words: list[str], org: str | None, project: Path, fake_stack: Any, capsys: Capture
) -> None:
    assert main(["usage", *words, "--since", "2026-11-01"]) == 0

    assert (fake_stack.counted[0].org, fake_stack.counted[0].since) == (org, "2026-11-01")


def test_a_day_that_is_none_is_refused(project: Path, fake_stack: Any, capsys: Capture) -> None:
    assert main(["usage", "--since", "yesterday"]) == 1

    assert "error: --since is 'yesterday': it wants a day, for example 2026-11-21" in capsys.readouterr().err
