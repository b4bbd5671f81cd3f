"""The whole of Flash as containers, from a clone: images, walls, a login, a run that loses two of its replicas.

Wants Docker with Compose on the PATH and the base images that compose.yaml names, or stand-ins for them. Images are
built with what PIP_FIND_LINKS holds before any index is asked, so that a torch at hand is not downloaded again.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from flash.bus.server import free_port

pytestmark = [
    pytest.mark.long,
    pytest.mark.compose,
    pytest.mark.skipif(not shutil.which("docker"), reason="there is no docker on the PATH"),
]

ROOT = Path(__file__).parents[2]
SERVICES = ("hub", "scheduler", "recorder", "scorer", "rollout", "learner")
SCORER = ["--user", "21000:21000", "--cap-drop", "ALL", "--security-opt", "no-new-privileges:true"]
ONE = """
from envsdk import EnvironmentSingleTurn

class One(EnvironmentSingleTurn):
    dataset = [{"input": "q", "output": "a"}]
    def build_prompt_messages(self, example, prompt_text):
        return [{"role": "user", "content": example.input}]
    def score_response(self, example, text):
        return 0.5

def load_environment():
    return One()
"""
BUILD_S, UP_S, RUN_S = 1800.0, 300.0, 600.0


@dataclass(frozen=True)
class Stack:
    """A compose project of the test's own, in a clone."""

    clone: Path
    variables: dict[str, str]

    def compose(self, *words: str, within_s: float = 120.0) -> str:
        command = ["docker", "compose", "-p", "flash-walk", "-f", "compose.yaml", "-f", "walk.yaml", *words]
        return self._said(command, self.clone, within_s)

    def docker(self, *words: str, within_s: float = 120.0) -> str:
        return self._said(["docker", *words], self.clone, within_s)

    def flash(self, *words: str, folder: Path | None = None, within_s: float = 120.0) -> str:
        """The command line of this machine, which knows the stack by its login only."""
        return self._said([str(Path(sys.executable).with_name("flash")), *words], folder or self.clone, within_s)

    def data(self, *words: str, folder: Path | None = None) -> Any:
        return json.loads(self.flash(*words, "--json", folder=folder))

    def replicas(self) -> dict[str, dict[str, int]]:
        """What each replica has done, by service."""
        found: dict[str, dict[str, int]] = {}
        for replica in self.data("ps")["replicas"]:
            found.setdefault(replica["service"], {})[replica["id"]] = replica["done"]
        return found

    def containers(self, service: str) -> list[str]:
        return self.compose("ps", "-q", service).split()

    def _said(self, command: list[str], folder: Path, within_s: float) -> str:
        done = subprocess.run(
            command, cwd=folder, env=self.variables, capture_output=True, text=True, timeout=within_s, check=False
        )
        assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-3_000:]}\n{done.stderr[-3_000:]}"
        return done.stdout


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Built and up, with two rollouts and three scorers."""
    folder = tmp_path_factory.mktemp("compose")
    clone = folder / "flash"
    subprocess.run(["git", "clone", "--quiet", ROOT, clone], check=True)
    (clone / "walk.yaml").write_text(json.dumps({"services": {name: {"build": _build(name)} for name in SERVICES}}))
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FLASH_")}
    mine = {"FLASH_HOME": str(folder / "home"), "FLASH_PORT": str(free_port()), "FLASH_TAG": "walk"}
    made = Stack(clone, kept | mine)
    made.compose("build", within_s=BUILD_S)
    try:
        scale = ("--scale", "rollout=2", "--scale", "scorer=3")
        made.compose("up", "--wait", "--wait-timeout", str(int(UP_S)), *scale, within_s=UP_S + 30)
        yield made
    finally:
        print(made.compose("logs", "--no-color", "--tail", "40"))
        made.compose("down", "--volumes", "--timeout", "5")


def _build(service: str) -> dict[str, Any]:
    """The network of this machine, and its wheels where it has some."""
    wheels = os.environ.get("PIP_FIND_LINKS", "")
    torch = service in ("rollout", "learner") and Path(wheels).is_dir() and bool(wheels)
    return {"network": "host", **({"additional_contexts": {"wheels": wheels}} if torch else {})}


@pytest.fixture(scope="module")
def project(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A person's folder, logged in with the line that compose prints, and its environment published."""
    line = stack.compose("run", "--rm", "login")
    assert line.count("\n") == 1
    bin = f"{Path(sys.executable).parent}:{stack.variables['PATH']}"
    logged_in = subprocess.run(
        ["sh", "-c", 'eval "$0"', line],
        env=stack.variables | {"PATH": bin}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert logged_in.returncode == 0, logged_in.stderr
    folder = tmp_path_factory.mktemp("project")
    stack.flash("env", "setup", "--template", "sort", "-y", folder=folder)
    stack.flash("env", "push", "--name", "sort", "-y", folder=folder, within_s=180)
    return folder


def test_scorer_and_hub_have_no_torch(stack: Stack) -> None:
    for service in ("hub", "scheduler", "scorer", "recorder"):
        found = stack.docker(
            "run", "--rm", "--entrypoint", "python", f"flash-{service}:walk",
            "-c", "import importlib.util; print(importlib.util.find_spec('torch'))",
        )  # fmt: skip
        assert found.strip() == "None", service


def test_torch_is_built_for_the_cpu(stack: Stack) -> None:
    found = stack.docker(
        "run", "--rm", "--entrypoint", "python", "flash-rollout:walk",
        "-c", "import torch; print(torch.__version__, torch.version.cuda)",
    )  # fmt: skip

    assert found.split()[0].startswith("2.13.0")
    assert found.split()[1] == "None"


def test_every_scorer_has_all_walls(stack: Stack) -> None:
    said = stack.compose("logs", "--no-log-prefix", "scorer").splitlines()
    lines = [json.loads(line[line.index("{") :]) for line in said if '"sandbox.chosen"' in line]

    assert [line["walls"] for line in lines] == ["bwrap"] * 3
    assert [line["missing"] for line in lines] == [[]] * 3


@pytest.mark.parametrize(
    ("options", "walls", "has_second_uid"),
    [
        (["--user", "0:0"], "landlock", True),
        (["--user", "0:0", "--cap-drop", "ALL"], "landlock", False),
        (["--user", "21000:21000", "--cap-drop", "ALL"], "landlock", False),
        ([*SCORER, "--security-opt", "seccomp=deploy/scorer-seccomp.json"], "bwrap", False),
    ],
)
def test_what_is_left_of_the_walls_in_containers_that_are_granted_less(
    stack: Stack, options: list[str], walls: str, has_second_uid: bool
) -> None:
    """As docs/security.md has it; and that an environment scores within what is left."""
    (stack.clone / "one").mkdir(exist_ok=True)
    (stack.clone / "one" / "environment.py").write_text(ONE)
    run = ["run", "--rm", *options, "--volume", f"{stack.clone}/one:/one:ro", "flash-scorer:walk", "cli"]

    told = json.loads(stack.docker(*run, "doctor", "--json"))["sandbox"]
    scored = json.loads(stack.docker(*run, "env", "score", "/one", "--input", "q", "--text", "x", "--json"))

    assert told["walls"] == walls
    assert ("second uid" in told["layers"]) == has_second_uid
    assert told["missing"] != []
    assert scored["rollouts"][0]["reward"] == 0.5, scored


def test_nobody_comes_in_without_a_login(stack: Stack, tmp_path: Path) -> None:
    stranger = stack.variables | {
        "FLASH_HOME": str(tmp_path),
        "FLASH_URL": f"127.0.0.1:{stack.variables['FLASH_PORT']}",
    }
    flash = str(Path(sys.executable).with_name("flash"))

    refused = subprocess.run([flash, "runs"], env=stranger, capture_output=True, text=True, timeout=60, check=False)

    assert refused.returncode == 1
    assert "refuses us" in refused.stderr


def test_a_run_that_loses_a_rollout_and_a_scorer_ends_well(stack: Stack, project: Path) -> None:
    run = stack.data(
        "train", "configs/rl.toml", "--set", "train.steps=40", "--set", "train.save_every=20", "--background",
        folder=project,
    )["run_id"]  # fmt: skip
    until(lambda: stack.data("status", run)["step"] >= 3)
    before = stack.replicas()
    dead = [stack.containers("rollout")[0], stack.containers("scorer")[0]]

    stack.docker("kill", *dead)
    until(lambda: stack.data("status", run)["state"] not in ("queued", "planning", "running"))

    ended = stack.data("status", run)
    after = stack.replicas()
    assert (ended["state"], ended["step"]) == ("done", 40), ended
    assert (len(before["rollout"]), len(before["scorer"])) == (2, 3)
    assert all(done > 0 for service in ("rollout", "scorer") for done in before[service].values()), before
    assert (len(after["rollout"]), len(after["scorer"])) == (1, 2)
    assert all(done > before[service][id] for service in ("rollout", "scorer") for id, done in after[service].items())
    assert ended["rollouts"] == 40 * 8 * 8
    steps = [checkpoint["step"] for checkpoint in stack.data("checkpoints", run)]
    assert steps == [20, 40]
    assert stack.flash("chat", run, "-m", "Sort: 7 3 9 1 5").strip()


def test_a_run_goes_on_when_bus_and_store_were_killed(stack: Stack, project: Path) -> None:
    run = stack.data("train", "configs/rl.toml", "--set", "train.steps=30", "--background", folder=project)["run_id"]
    until(lambda: stack.data("status", run)["step"] >= 3)
    infrastructure = [*stack.containers("nats"), *stack.containers("minio")]

    stack.docker("kill", *infrastructure)
    stack.docker("start", *infrastructure)
    stack.compose("up", "--wait", "--no-recreate", "--no-build", "nats", "minio")
    until(lambda: stack.data("status", run)["state"] not in ("queued", "planning", "running"))

    ended = stack.data("status", run)
    assert (ended["state"], ended["step"], ended["rollouts"]) == ("done", 30, 30 * 8 * 8), ended


def test_what_is_secret_stands_in_no_log_and_no_description_of_a_container(stack: Stack, project: Path) -> None:
    names = ("services", "logins", "objects", "operator")
    secrets = stack.compose("exec", "-T", "-u", "0", "hub", "sh", "-c", f"cd /keys && tail -qn1 {' '.join(names)}")
    assert len(secrets) == len(names) * 64

    told = stack.compose("logs", "--no-color") + stack.docker("inspect", *stack.compose("ps", "-qa").split())

    assert not [name for at, name in enumerate(names) if secrets[at * 64 : at * 64 + 64] in told]


def until(is_so: Callable[[], bool]) -> None:
    give_up = time.monotonic() + RUN_S
    while not is_so():
        assert time.monotonic() < give_up
        time.sleep(1)
