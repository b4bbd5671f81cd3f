"""Classic environments earn here what they earn with the real package."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
VENV = HERE.parents[2] / "bench" / ".venvs" / "verifiers-0.3.1"


@pytest.fixture(scope="module")
def real_python() -> str:
    """An interpreter with the real package, installed once."""
    python = VENV / "bin" / "python"
    if not (VENV / "ready").exists():
        for command in (
            [sys.executable, "-m", "venv", str(VENV)],
            [str(python), "-m", "pip", "install", "-q", "verifiers==0.3.1"],
        ):
            made = subprocess.run(command, capture_output=True, text=True, timeout=600)
            if made.returncode:
                pytest.skip(f"verifiers==0.3.1 cannot be installed: {made.stderr.strip().splitlines()[-1:]}")
        (VENV / "ready").touch()
    return str(python)


@pytest.mark.slow
def test_classic_environments_earn_what_they_earn_with_the_real_package(real_python: str, endpoint: Any) -> None:
    theirs, ours = told(real_python, endpoint.url), told(sys.executable, endpoint.url)

    assert theirs.keys() == ours.keys()
    for case, rollouts in theirs.items():
        expected, found = in_order(rollouts), in_order(ours[case])
        assert [seen(rollout) for rollout in found] == [seen(rollout) for rollout in expected], case
        for mine, other in zip(found, expected, strict=True):
            assert mine["reward"] == pytest.approx(other["reward"], abs=1e-12), (case, mine["completion"])
            # Functions of one name have a metric each here, and one sum there; one turn is no figure worth a line.
            assert {name: metric(mine, name) for name in other["metrics"] if name in mine["metrics"]} == pytest.approx(
                {name: value for name, value in other["metrics"].items() if name in mine["metrics"]}
            ), case
            assert other["metrics"].keys() - mine["metrics"].keys() <= {"num_turns"}, case


def metric(rollout: dict[str, Any], name: str) -> float:
    return sum(value for key, value in rollout["metrics"].items() if key in (name, f"{name}_2"))


def told(python: str, url: str) -> dict[str, list[dict[str, Any]]]:
    kept = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")}
    path = {"PYTHONPATH": str(HERE.parents[2])} if python == sys.executable else {}
    # Into files, and in a process group of its own: the real package's workers outlive it, and hold its pipes open.
    with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as complained:
        ran = subprocess.Popen(
            [python, str(HERE / "classic.py"), url],
            stdout=said,
            stderr=complained,
            env={**kept, **path, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
            cwd=HERE,
            start_new_session=True,
        )
        try:
            ran.wait(120)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(ran.pid, signal.SIGKILL)
            ran.wait()
        for file in (said, complained):
            file.seek(0)
        lines = [line for line in said.read().decode().splitlines() if line.startswith("TOLD ")]
        assert lines, complained.read().decode()[-3000:]
    found: dict[str, list[dict[str, Any]]] = json.loads(lines[0][5:])
    return found


def in_order(rollouts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """By what was said: the endpoint answers whoever asks first."""
    return sorted(rollouts, key=lambda rollout: json.dumps([rollout["prompt"], rollout["completion"]]))


def seen(rollout: dict[str, Any]) -> Any:
    return [rollout[field] for field in ("prompt", "completion", "stop", "error")]
