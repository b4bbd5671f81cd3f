"""Following a run while the terminal, or the bus, goes away."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cli.stack.home import Home
from tests.walk.conftest import Terminal

pytestmark = pytest.mark.slow
WITHIN_S = 180


def begun(terminal: Terminal, *words: str) -> "subprocess.Popen[str]":
    """It hears Ctrl-C, as at a terminal: who runs these tests in the background may have had that ignored."""
    return subprocess.Popen(
        [str(Path(sys.executable).with_name("flash")), *words], cwd=terminal.folder, env=terminal.environment(),
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip


def until(process: "subprocess.Popen[str]", is_seen: Callable[[str], object]) -> str:
    """What it says on stderr up to the line that was waited for."""
    said = ""
    assert process.stderr
    for line in process.stderr:
        said += line
        if is_seen(line):
            return said
    raise AssertionError(f"it ended before that: {said}")


def test_a_run_outlives_ctrl_c_and_is_followed_again_over_a_bus_that_is_killed(terminal: Terminal) -> None:
    terminal("flash up -d")
    terminal("flash env setup --template sort -y")
    terminal("flash env push --name sort -y")

    training = begun(terminal, "train", "configs/rl.toml", "--set", "train.steps=30")
    until(training, lambda line: line.startswith("step=1 "))
    training.send_signal(signal.SIGINT)
    _, last = training.communicate(timeout=WITHIN_S)

    assert training.returncode == 130
    found = re.search(r"detached; (\S+) goes on", last)
    assert found, last
    run_id = found[1]
    assert f"flash status {run_id} -f" in last
    assert f"flash cancel {run_id}" in last

    following = begun(terminal, "status", run_id, "-f")
    said = until(following, lambda line: line.startswith("step=3 "))
    stack = Home(terminal.home).running()
    assert stack
    os.kill(next(part.pid for part in stack.parts if part.name == "nats"), signal.SIGKILL)
    _, rest = following.communicate(timeout=WITHIN_S)

    assert following.returncode == 0, rest
    steps = [int(step) for step in re.findall(r"^step=(\d+) ", said + rest, flags=re.M)]
    assert steps == list(range(1, 31)), "each step is shown once"
