"""A stack of this machine that stands for all walks, and commands typed at it as a person types them."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RUN_ID = re.compile(r"flash-\d+-[0-9a-f]{8}")


@dataclass
class Typed:
    """What a command printed."""

    line: str
    code: int
    out: str
    err: str

    @property
    def run_id(self) -> str:
        """The run that it speaks of."""
        found = RUN_ID.search(self.out + self.err)
        assert found, f"`{self.line}` names no run: {self.out}{self.err}"
        return found[0]


@dataclass
class Terminal:
    """A folder, and a home for the stack."""

    home: Path
    folder: Path
    typed: list[Typed] = field(default_factory=list)

    def __call__(self, line: str) -> Typed:
        """Type a line; whatever does not end with 0 ends the test with what it said."""
        done = subprocess.run(
            [str(Path(sys.executable).with_name("flash")), *shlex.split(line, comments=True)[1:]],
            cwd=self.folder, env=self.environment(), capture_output=True, text=True, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        typed = Typed(line, done.returncode, done.stdout, done.stderr)
        self.typed.append(typed)
        assert typed.code == 0, f"`{line}` ended with {typed.code}:\n{typed.out}\n{typed.err}"
        return typed

    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("FLASH_")}
        return kept | {"FLASH_HOME": str(self.home), "COLUMNS": "80"}


@pytest.fixture(scope="module")
def terminal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Terminal]:
    """In an empty folder, with a stack that `flash up -d` is still to start; it is stopped at the end."""
    place = tmp_path_factory.mktemp("walk")
    (place / "task").mkdir()
    made = Terminal(place / "home", place / "task")
    try:
        yield made
    finally:
        made("flash down")
