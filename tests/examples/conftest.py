"""The examples as a person tries them: `flash` typed in a copy of an example's folder, on a stack of its own."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cli.__main__ import main
from tests.pulled import share_models

EXAMPLES = Path(__file__).parents[2] / "examples"


@dataclass(frozen=True)
class Project:
    """An example's folder, published on a running stack."""

    folder: Path
    home: Path

    def __call__(self, *words: str) -> Any:
        """What a command prints as JSON; a test fails with what one says that fails."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("FLASH_")}
        done = subprocess.run(
            [sys.executable, "-P", "-m", "cli", *words, "--json"], cwd=self.folder,
            env=kept | {"FLASH_HOME": str(self.home)}, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, f"`flash {' '.join(words)}` says {done.stderr}"
        return json.loads(done.stdout) if done.stdout else None

    def train(self, config: str, *words: str) -> str:
        """The finished run's id."""
        run_id: str = self("train", config, *words)["run_id"]
        return run_id

    def evaluated(self, reference: str, *words: str) -> dict[str, Any]:
        """What `flash env eval` finds on the held-out rows."""
        found: dict[str, Any] = self("env", "eval", self.folder.name, "-m", reference, "--split", "eval", *words)
        return found


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Project]]:
    """Copies an example, with some text of its files put in place of another, and publishes it on its model's stack."""
    up: dict[str, Project] = {}

    def publish(name: str, swap: tuple[str, str] = ("", ""), model: str = "tiny") -> Project:
        folder = tmp_path_factory.mktemp("project") / name
        shutil.copytree(EXAMPLES / name, folder)
        for file in (folder / "environment.py", *folder.glob("configs/*.toml")) if swap[0] else ():
            file.write_text(file.read_text().replace(*swap))
        project = Project(folder, up[model].home if model in up else tmp_path_factory.mktemp("home"))
        if model not in up:
            up[model] = project
            share_models(project.home)
            project("models", "pull", model)
            project("up", "--detach", "--model", model)
        project("env", "push", "--name", name, "-y")
        return project

    yield publish
    for project in up.values():
        project("down")


@pytest.fixture
def tested(capsys: pytest.CaptureFixture[str]) -> Callable[..., dict[str, Any]]:
    """What `flash env test` finds in an example."""

    def test(name: str, *words: str) -> dict[str, Any]:
        main(["env", "test", str(EXAMPLES / name), *words, "--json"])
        found: dict[str, Any] = json.loads(capsys.readouterr().out)
        return found

    return test
