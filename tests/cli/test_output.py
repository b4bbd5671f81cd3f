"""What people read."""

import io
import sys

import pytest
from rich.console import Console
from rich.file_proxy import FileProxy

from cli import output


@pytest.mark.parametrize(("encoding", "shown"), [("utf-8", "10 × 3 ± 1"), ("ascii", "10 x 3 +/- 1")])
def test_signs_are_written_as_the_terminal_can_also_below_a_progress_bar(
    monkeypatch: pytest.MonkeyPatch, encoding: str, shown: str
) -> None:
    terminal = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    # what rich puts in the place of stderr while a bar is up
    monkeypatch.setattr(sys, "stderr", FileProxy(Console(file=terminal, width=80), terminal))

    output.note("10 × 3 ± 1")

    terminal.flush()
    assert terminal.buffer.getvalue().decode(encoding) == f"{shown}\n"  # type: ignore[attr-defined]


@pytest.mark.parametrize(("last", "has_folded"), [("short", False), ("four words that fold", True), ("10 ± 1", False)])
def test_a_table_looks_the_same_whether_its_cells_fit_or_are_folded(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], last: str, has_folded: bool
) -> None:
    monkeypatch.setenv("COLUMNS", "24")
    monkeypatch.setenv("TERM", "dumb")

    output.table(("RUN", "NAME"), [("flash-1", "a"), ("flash-2", last)])

    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert lines[:2] == ["RUN      NAME", "flash-1  a"]
    assert (len(lines) > 3) == has_folded
    assert " ".join(line[9:] for line in lines[2:]) == last
