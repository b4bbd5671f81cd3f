"""The pages for authors, taken apart: their projects with files and commands, and their tables."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"

_FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"# ([\w./-]+\.(?:py|toml))\n")
_CODE = re.compile(r"(`+)((?:(?!\1).)+)\1")
_CELL = re.compile(r"(?<!\\)\|")


@dataclass
class Command:
    """A line that a person types, and what the page shows of the answer: `…` stands for anything."""

    typed: str
    shown: list[str] = field(default_factory=list)

    @property
    def needs_a_stack(self) -> bool:
        alone = ("flash env test", "flash env score", "flash env setup")
        return self.typed.startswith("flash ") and "--url" not in self.typed and not self.typed.startswith(alone)


@dataclass
class Project:
    """A folder that a page has its reader make: it begins with each `# environment.py`."""

    heading: str
    """Under which it stands."""
    files: dict[str, str] = field(default_factory=dict)
    scripts: list[str] = field(default_factory=list)
    """Python without a file's name: typed into an interpreter in that folder."""
    commands: list[Command] = field(default_factory=list)
    fragments: list[str] = field(default_factory=list)
    """TOML without a file's name: some tables of a config."""
    episodes: list[list[tuple[str, str]]] = field(default_factory=list)
    """Who says what, line by line, and the reward at the end."""

    @property
    def name(self) -> str:
        """That of its class or, in the other dialect, of its first function, in small letters."""
        return re.findall(r"^(?:class|def) (\w+)", self.files["environment.py"], re.MULTILINE)[0].lower()

    @property
    def needs_packages(self) -> bool:
        return any("\npip = [" in text for text in self.files.values())

    def lay_down(self, folder: Path) -> Path:
        for name, text in self.files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
        return folder


def projects_of(page: str) -> list[Project]:
    text = (DOCS / page).read_text()
    headings = {match.start(): match[1] for match in re.finditer(r"^##+ (.*)$", text, re.MULTILINE)}
    found: list[Project] = []
    for block in _FENCE.finditer(text):
        language, code = block[1], block[2]
        named = _FILE.match(code)
        if named and named[1] == "environment.py":
            found.append(Project(max((at, name) for at, name in headings.items() if at < block.start())[1]))
        if named:
            found[-1].files[named[1]] = code
        elif language == "python":
            found[-1].scripts.append(code)
        elif language == "console":
            found[-1].commands += _commands(code)
        elif language == "toml":
            found[-1].fragments.append(code)
        elif language == "text":
            found[-1].episodes.append([_said(line) for line in code.splitlines()])
        else:
            raise AssertionError(f"{page} has a {language} block that nothing runs:\n{code}")
    return found


def tables_of(page: str, under: str) -> list[list[list[str]]]:
    """The rows of each table under a heading, without their heads."""
    text = (DOCS / page).read_text()
    section = re.search(rf"^##+ {re.escape(under)}\n(.*?)(?=^##|\Z)", text, re.MULTILINE | re.DOTALL)
    assert section, f"{page} has no section {under!r}"
    tables = [match[0].splitlines()[2:] for match in re.finditer(r"(?:^\|.*\n?)+", section[1], re.MULTILINE)]
    return [[_cells(line) for line in lines] for lines in tables]


@pytest.fixture
def projects() -> Callable[[str], list[Project]]:
    return projects_of


@pytest.fixture
def tables() -> Callable[[str, str], list[list[list[str]]]]:
    return tables_of


@pytest.fixture
def page_text() -> Callable[[str], str]:
    return lambda page: (DOCS / page).read_text()


def _cells(line: str) -> list[str]:
    """Those of a row; one that is code is given without its marks."""
    cells = [cell.strip().replace(r"\|", "|") for cell in _CELL.split(line)[1:-1]]
    return [match[2].strip() if (match := _CODE.fullmatch(cell)) else cell for cell in cells]


def _commands(code: str) -> Iterator[Command]:
    command: Command | None = None
    for line in code.splitlines():
        if line.startswith("$ "):
            if command:
                yield command
            command = Command(line[2:])
        elif line.strip():
            assert command, f"{line!r} stands before any command"
            command.shown.append(line)
    if command:
        yield command


def _said(line: str) -> tuple[str, str]:
    who, _, what = line.partition(" ")
    return who, what.strip()
