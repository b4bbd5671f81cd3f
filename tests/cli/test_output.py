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
