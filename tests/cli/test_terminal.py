"""What a person sees on a terminal of 80 columns: with colours and without, with Unicode and without."""

import io
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cli.__main__ import main

STYLES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
COLOURS = re.compile(r"\x1b\[(?:\d+;)*(?:3[0-9]|4[0-9]|9[0-7]|10[0-7])(?:;\d+)*m")


class Screen(io.TextIOWrapper):
    """A terminal that remembers what was written to it."""

    def __init__(self, encoding: str) -> None:
        super().__init__(io.BytesIO(), encoding=encoding, write_through=True)

    def isatty(self) -> bool:
        return True

    @property
    def text(self) -> str:
        held: Any = self.buffer
        return str(held.getvalue().decode(self.encoding))


@pytest.fixture
def trained(project: Path, fake_stack: Any, scripts: Any, capsys: pytest.CaptureFixture[str]) -> str:
    """The id of a run of a published environment that is over."""
    assert main(["env", "setup", "--template", "sort", "-y"]) == 0
    assert main(["env", "push", "--name", "an-environment-of-a-team", "-y"]) == 0
    fake_stack.script = scripts["learns"]
    assert main(["train", "configs/rl.toml", "--set", "name=the second try with a warm start"]) == 0
    capsys.readouterr()
    return str(fake_stack.specs[-1].run_id)


Type = Callable[..., str]


@pytest.fixture(params=["utf-8", "ascii"])
def typed(request: pytest.FixtureRequest, trained: str, monkeypatch: pytest.MonkeyPatch) -> Type:
    """Types a command at such a terminal, and gives what is then on it."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)

    def type_at(line: str) -> str:
        screen = Screen(request.param)
        with monkeypatch.context() as patch:  # here, as pytest puts its own in their places before each test
            patch.setattr(sys, "stdout", screen)
            patch.setattr(sys, "stderr", screen)
            assert main(line.replace("RUN", trained).split()) == 0
        return screen.text

    return type_at


LINES = ["runs", "status RUN", "checkpoints RUN", "env list", "models", "ps", "status RUN -f", "train configs/sft.toml"]


def test_everything_fits_into_80_columns_and_is_written_in_signs_that_the_terminal_has(
    typed: Type, trained: str
) -> None:
    for line in LINES:
        shown = STYLES.sub("", typed(line)).replace("\r", "\n")

        assert shown.strip(), line
        assert "?" not in shown.replace("/?", ""), f"{line} shows what this terminal cannot: {shown}"
        assert [row for row in shown.splitlines() if len(row) > 80 and "flash train" not in row] == [], line
    assert trained in STYLES.sub("", typed("runs")), "an id is never cut"


def test_no_color_is_honoured(typed: Type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")

    for line in LINES:
        assert not COLOURS.search(typed(line)), line


def test_a_log_is_a_line_a_fact(typed: Type) -> None:
    lines = typed("log RUN").splitlines()

    assert len(lines) == 8
    assert lines[4].endswith("step.finished step=1 rollouts=8 faults=0 reward=0.25 kl=0")


def test_a_run_that_is_followed_has_a_bar_and_a_row_a_step(typed: Type) -> None:
    shown = STYLES.sub("", typed("train configs/rl.toml"))

    assert "step=1 reward=0.25 kl=0" in shown
    assert "2/2" in shown, "the bar says how many steps are done"
