"""Where a system has none of the walls, as macOS, a host is a process with limits, and says so."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from flash.host.sandbox.processes import _asked_of_ps
from tests.wheels import source_distribution

HIDDEN = Path(__file__).with_name("hidden.py")
ROOT = Path(__file__).parents[3]


def run(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "FLASH_SANDBOX"}
    return subprocess.run(
        [sys.executable, str(HIDDEN), "-m", *words], cwd=ROOT, env={**environment, **variables},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


def test_the_doctor_says_what_is_promised_and_what_is_not() -> None:
    said = run("cli", "doctor", "--json")

    assert said.returncode == 0, said.stderr
    assert '"walls": "none"' in said.stdout
    assert said.stderr.count("warning: darwin has no sandbox") == 1
    assert "run only those you trust" in said.stderr


def test_who_requires_a_sandbox_is_refused_in_one_sentence() -> None:
    said = run("cli", "doctor", FLASH_SANDBOX="require")

    assert said.returncode == 1
    assert "FLASH_SANDBOX=require, but darwin has no sandbox: run scorers on Linux" in said.stderr + said.stdout


NOT_THERE = {
    "test_handle.py": [
        "bytearray",  # limits of memory
        "answered_means_gone",  # a process in a session of its own stays
        "a_closed_host_leaves_nothing_behind",  # likewise
    ],
    "test_episodes.py": [],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", NOT_THERE)
def test_hosts_do_what_they_do_on_linux_but_for_what_is_told(name: str) -> None:
    without = " and ".join(f"not {word.replace(' ', '_')}" for word in NOT_THERE[name])

    said = run("pytest", "-q", "-p", "no:cacheprovider", f"tests/host/{name}", "-k", without or "test")

    assert said.returncode == 0, said.stdout[-6_000:] + said.stderr[-2_000:]


ENVIRONMENT = """
import os, time
from envsdk import EnvironmentSingleTurn

def rest():
    open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "resting"), "w").close()
    while True: time.sleep(0.1)

class Restless(EnvironmentSingleTurn):
    def build_prompt_messages(self, example, prompt_text): return [{"role": "user", "content": example.input}]
    def score_response(self, example, text): rest()

def load_environment(): return Restless()
"""


@contextmanager
def asking(folder: Path, at_import: str = "") -> Iterator[subprocess.Popen[bytes]]:
    """A process with a host that is at its work for ever."""
    folder.mkdir()
    (folder / "environment.py").write_text(ENVIRONMENT + at_import)
    command = [sys.executable, str(HIDDEN), "-m", "tests.host.elsewhere.asking", str(folder), "text"]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL, start_new_session=True) as process:
        try:
            in_time((folder / "resting").exists)
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize(("at_import", "least"), [("rest()\n", 1), ("", 2)], ids=["while it loads", "while it scores"])
def test_hosts_and_what_they_do_end_with_whoever_has_started_them(at_import: str, least: int, tmp_path: Path) -> None:
    with asking(tmp_path / "env", at_import) as process:
        hosts = below(process.pid)
        assert len(hosts) >= least
        process.kill()

        in_time(lambda: not any(is_alive(pid) for pid in hosts))


def test_forks_end_with_a_host_that_is_killed(tmp_path: Path) -> None:
    with asking(tmp_path / "env") as process:
        zygote = below(process.pid)[-1]
        forks = below(zygote)
        assert forks
        os.kill(zygote, signal.SIGKILL)

        in_time(lambda: not any(is_alive(pid) for pid in forks))


def test_requirement_sets_are_installed(index: Path, tmp_path: Path) -> None:
    source_distribution(index, "greeting", "1.0")

    said = run("tests.host.elsewhere.installing", str(tmp_path / "sets"))

    assert said.returncode == 0, said.stderr
    assert (Path(said.stdout.strip()) / "greeting.py").is_file()


def in_time(is_so: Callable[[], bool]) -> None:
    give_up = time.monotonic() + 30
    while not is_so():
        assert time.monotonic() < give_up
        time.sleep(0.05)


def below(pid: int) -> list[int]:
    """As `ps` has it, which is how it is found out there; children's children first."""
    return [found for found, state in _asked_of_ps(pid) if state != "Z"]


def is_alive(pid: int) -> bool:
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout
    return bool(state.strip()) and state.strip()[0] != "Z"
