"""`flash runs delete`: asks, and says what is gone. What goes: tests/scheduler/test_deleting.py."""

from pathlib import Path
from typing import Any

import pytest

from cli.__main__ import main

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def run(project: Path, fake_stack: Any, scripts: Any, capsys: Capture) -> str:
    """The id of a run that is over."""
    fake_stack.script = scripts["learns"]
    assert main(["env", "setup", "-y"]) == 0
    assert main(["env", "push", "--name", "sums", "-y"]) == 0
    assert main(["train", "configs/rl.toml"]) == 0
    capsys.readouterr()
    return str(fake_stack.specs[-1].run_id)


def is_there(run: str) -> bool:
    return main(["status", run]) == 0


def test_a_deletion_asks_and_does_nothing_where_nobody_answers(run: str, capsys: Capture) -> None:
    assert main(["runs", "delete", run]) == 1

    told = capsys.readouterr().err
    assert (
        f"this would delete {run} (done, 1 checkpoint) and all that it stored for good: -y says that it shall" in told
    )
    assert is_there(run)


def test_a_person_who_says_no_keeps_it(run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    for said, code in (("", 1), ("n", 1), ("y", 0)):
        monkeypatch.setattr("builtins.input", lambda said=said: said)
        assert main(["runs", "delete", run]) == code
        assert is_there(run) == bool(code)


def test_what_was_deleted_is_nowhere(run: str, capsys: Capture) -> None:
    assert main(["runs", "delete", run, "-y"]) == 0

    assert capsys.readouterr().out == f"deleted {run}\n"
    for command in ("status", "log", "checkpoints", "trace"):
        assert main([command, run]) == 1
        assert f"error: the run {run} was deleted: `flash runs` lists" in capsys.readouterr().err, command
    assert main(["runs", "delete", run, "-y"]) == 1


def test_a_run_that_is_not_over_is_not_deleted(run: str, fake_stack: Any, capsys: Capture) -> None:
    fake_stack.script = lambda spec: []
    assert main(["train", "configs/rl.toml", "--background"]) == 0
    live = fake_stack.specs[-1].run_id

    assert main(["runs", "delete", live, "-y"]) == 1

    assert f"error: {live} is queued: `flash cancel {live}` first" in capsys.readouterr().err
