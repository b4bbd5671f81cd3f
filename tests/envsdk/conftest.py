"""Interpreters that have a release of the real `verifiers` package."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def python_with() -> Callable[[str], str]:
    """The interpreter of a release's virtual environment, which is made once."""

    def python(release: str) -> str:
        folder = ROOT / "bench" / ".venvs" / f"verifiers-{release}"
        if not (folder / "ready").exists():
            for command in (
                [sys.executable, "-m", "venv", str(folder)],
                [str(folder / "bin" / "python"), "-m", "pip", "install", "-q", f"verifiers=={release}"],
            ):
                made = subprocess.run(command, capture_output=True, text=True, timeout=600)
                if made.returncode:
                    said = made.stderr.strip().splitlines()[-1:]
                    pytest.skip(f"verifiers=={release} cannot be installed: {said}")
            (folder / "ready").touch()
        return str(folder / "bin" / "python")

    return python


@pytest.fixture(scope="session")
def told_by() -> Callable[..., Any]:
    """What a script prints behind `TOLD `, run by an interpreter of its own."""

    def told(python: str, script: Path, *args: str, path: tuple[Path, ...] = ()) -> Any:
        kept = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")}
        given = {"PYTHONPATH": os.pathsep.join(map(str, path)), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        # Into files, and in a process group of its own: the real package's workers outlive it, and hold its pipes open.
        with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as complained:
            ran = subprocess.Popen(
                [python, str(script), *args], stdout=said, stderr=complained, env=kept | given, cwd=script.parent,
                start_new_session=True,
            )  # fmt: skip
            try:
                ran.wait(240)
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(ran.pid, signal.SIGKILL)
                ran.wait()
            for file in (said, complained):
                file.seek(0)
            lines = [line for line in said.read().decode().splitlines() if line.startswith("TOLD ")]
            assert lines, complained.read().decode()[-3000:]
        return json.loads(lines[0][5:])

    return told
