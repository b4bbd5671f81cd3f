"""docs/environments*.md: every file loads, every command does what the page shows, every episode plays as it stands."""

import json
import os
import pty
import re
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from flash.config.run import checked
from flash.contracts.values import Example
from flash.host import Host, HostSpec, Limits

PAGES = ("environments.md", "environments-scoring.md", "environments-turns.md", "environments-verifiers.md")
EPISODES = ("environments-turns.md", "environments-verifiers.md")
PACKAGES = ("environments-verifiers.md",)
FIRST_STEPS = ("environments.md", "environments-verifiers.md")
"""Pages that begin with nothing and end with a trained model."""

Line = tuple[str, str]
"""Who says something, and what."""

RUN_ID = re.compile(r"flash-\d+-[0-9a-f]{8}")
_SHARE = re.compile(r"\d+(?:\.\d+)?%")
_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Terminal:
    """A person's, in a folder of theirs."""

    def __init__(self, folder: Path, home: Path, **replaced: str) -> None:
        self._folder, self._replaced = folder, replaced
        kept = {name: value for name, value in os.environ.items() if not name.startswith("FLASH_")}
        self._variables = kept | {
            "FLASH_HOME": str(home), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "TERM": "xterm",
            "COLUMNS": "200",
        }  # fmt: skip
        self.newest_run = ""

    def type(self, words: str, *, fails: bool = False) -> str:
        """What is then to be read."""
        words = words.replace("RUN", self.newest_run)
        for shown, real in self._replaced.items():
            words = words.replace(shown, real)
        ours, theirs = pty.openpty()
        with subprocess.Popen(
            ["bash", "-c", words], cwd=self._folder, env=self._variables, stdin=subprocess.DEVNULL, stdout=theirs,
            stderr=theirs,
        ) as running:  # fmt: skip
            os.close(theirs)
            said = _ANSI.sub("", _read(ours)).replace("\r", "\n")
        assert bool(running.returncode) == fails, f"`{words}` ended with {running.returncode}:\n{said}"
        if words.startswith("flash train") and (runs := RUN_ID.findall(said)):
            self.newest_run = runs[-1] if "init_from_adapter" in words else runs[0]
        return said

    def check(self, words: str, shown: Sequence[str]) -> None:
        """Type it, and find the lines that the page shows, in their order."""
        said = self.type(words, fails=any(line.startswith("FAIL") for line in shown))
        lines = iter(said.splitlines())
        for wanted in shown:
            assert any(is_as_shown(wanted, line) for line in lines), f"{wanted!r} is not in\n{said}"


@pytest.fixture
def endpoint() -> Iterator[str]:
    """A model that says `red` to everything."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.answer({"choices": [{"message": {"role": "assistant", "content": "red"}, "finish_reason": "stop"}]})

        def do_GET(self) -> None:
            self.answer({"data": [{"id": "a-model"}]})

        def answer(self, found: Any) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(found).encode())

        def log_message(self, *args: Any) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize("page", PAGES)
def test_the_commands_that_need_no_stack_do_what_the_page_shows(
    page: str, projects: Any, tmp_path: Path, endpoint: str
) -> None:
    for number, project in enumerate(alone(projects(page))):
        folder = project.lay_down(tmp_path / str(number))
        terminal = Terminal(folder, tmp_path / "home", **{"http://localhost:8000": endpoint})
        for command in project.commands:
            if not command.needs_a_stack:
                terminal.check(command.typed, command.shown)
        for script in project.scripts:
            assert run(script, folder) == promised(script)


@pytest.mark.parametrize("page", PAGES)
def test_the_configs_are_ones_that_flash_takes(page: str, projects: Any) -> None:
    for project in projects(page):
        for name, text in project.files.items():
            if name.endswith(".toml"):
                assert checked(tomllib.loads(text)).environment.id in ("", f"local/{project.name}")
        for text in project.fragments:
            checked({"model": "tiny", **tomllib.loads(text)})


@pytest.mark.parametrize("page", PAGES)
async def test_every_environment_is_opened_and_scored_by_the_host(page: str, projects: Any, tmp_path: Path) -> None:
    for number, project in enumerate(alone(projects(page))):
        folder = project.lay_down(tmp_path / str(number))
        if "generate.py" in project.files:
            run(project.files["generate.py"], folder)
        host = await Host.start(HostSpec(folder=folder, limits=Limits(slots=1)))
        try:
            rows = (await host.rows("train", 0, 4, "")).examples
            assert rows
            if host.about.multi_turn:
                assert project.episodes, f"{project.name} is never played"
                continue
            for example in rows:
                gold = (example.completion or [{"content": "anything"}])[-1]["content"]
                right, wrong = await host.score(example, [gold, gold + gold], deadline_s=10.0)
                if project.name != "judged":  # there is no judge here
                    assert right.fault is wrong.fault is None, right.fault
                    assert (right.reward or 0.0) > (wrong.reward or 0.0) or project.name == "flattered"
        finally:
            await host.close()


@pytest.mark.parametrize("page", EPISODES)
async def test_every_episode_plays_as_it_stands(page: str, projects: Any, tmp_path: Path) -> None:
    """Also beside another one that says other things, and when it begins anew."""
    for number, project in enumerate(alone(projects(page))):
        host = await Host.start(HostSpec(folder=project.lay_down(tmp_path / str(number)), limits=Limits(slots=1)))
        try:
            rows = (await host.rows("train", 0, 10, "")).examples
            for lines in project.episodes:
                example = next(row for row in rows if row.messages[-1]["content"] == lines[0][1])
                assert await played(host, example, lines, beside=["2"]) == lines
                assert await played(host, example, lines, beside=[]) == lines
        finally:
            await host.close()


@pytest.mark.slow
@pytest.mark.parametrize("page", PACKAGES)
def test_environments_with_packages_do_what_the_page_shows(
    page: str, projects: Any, tmp_path: Path, verifiers_set: Path
) -> None:
    found = [project for project in projects(page) if project.needs_packages]
    assert found
    (tmp_path / "home/cache").mkdir(parents=True)
    (tmp_path / "home/cache/requirements").symlink_to(verifiers_set.parent)  # installed once for all tests
    for number, project in enumerate(found):
        terminal = Terminal(project.lay_down(tmp_path / str(number)), tmp_path / "home")
        for command in project.commands:
            terminal.check(command.typed, command.shown)


@pytest.mark.slow
@pytest.mark.parametrize("page", FIRST_STEPS)
def test_a_newcomer_gets_from_nothing_to_a_trained_model(page: str, projects: Any, tmp_path: Path) -> None:
    project = projects(page)[0]
    terminal = Terminal(project.lay_down(tmp_path / "project"), tmp_path / "home")
    try:
        for command in project.commands:
            terminal.check(command.typed, command.shown)
    finally:
        terminal.type("flash down")


async def played(host: Host, example: Example, lines: list[Line], *, beside: list[str]) -> list[Line]:
    """What comes of the actions among these lines, turn by turn, with another episode of the group beside it."""
    actions = [text for who, text in lines if who == "assistant"]
    episodes = await host.episodes(example, 2 if beside else 1, prompt_text="", deadline_s=10.0)
    try:
        opening = (await episodes.start())[0].messages
        found = [(message["role"], message["content"]) for message in opening if message["role"] != "system"]
        for turn, action in enumerate(actions):
            if turn < len(beside):
                await episodes.step(1, beside[turn])
            stepped = await episodes.step(0, action)
            assert stepped.done == (turn + 1 == len(actions)), stepped
            found += [("assistant", action), *((said["role"], said["content"]) for said in stepped.messages)]
        (verdict,) = await episodes.score([0])
    finally:
        await episodes.close()
    assert verdict is not None
    assert verdict.fault is None
    return [*found, ("reward", f"{verdict.reward:.4g}")]


def is_as_shown(wanted: str, line: str) -> bool:
    """`…` stands for anything; a measured share may be another by 15 points on another machine."""
    parts = (_SHARE.sub("%", part) for part in wanted.rstrip().split("…"))
    if not re.fullmatch(".*".join(map(re.escape, parts)), _SHARE.sub("%", line.rstrip())):
        return False
    shares = zip(_SHARE.findall(wanted), _SHARE.findall(line), strict=False)
    return all(abs(float(a[:-1]) - float(b[:-1])) <= 15 for a, b in shares)


@pytest.mark.slow
def test_your_own_task_of_the_readme_works_as_it_is_printed(tmp_path: Path, page_text: Any, endpoint: str) -> None:
    """With the model that ships with Flash in place of the one that is pulled."""
    section = page_text("../README.md").split("## Your own task")[1]
    lines = [line.split("  #")[0].rstrip() for line in section.split("```")[1].strip().splitlines()]
    replaced = {"smollm2-135m": "tiny", "http://localhost:8000": endpoint}
    terminal = Terminal(tmp_path, tmp_path / "home", **replaced)
    try:
        for line in lines:
            terminal.type(line.split(" # ")[0])
            if line.startswith("mkdir sums && cd sums"):
                terminal = Terminal(tmp_path / "sums", tmp_path / "home", **replaced)
                terminal.type("sed -i 's/^model = .*/model = \"tiny\"/' configs/*.toml")
    finally:
        terminal.type("flash down")

    assert len(lines) == 14


def alone(projects: Sequence[Any]) -> list[Any]:
    """Those that need nothing installed."""
    return [project for project in projects if not project.needs_packages]


def run(script: str, folder: Path) -> list[str]:
    """What it prints, in an interpreter of its own in that folder."""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=folder, check=True, text=True, stdout=subprocess.PIPE, timeout=60
    )
    return done.stdout.splitlines()


def promised(script: str) -> list[str]:
    """What the page says that it prints: the comments behind its `print`s."""
    return [line.split("  # ", 1)[1] for line in script.splitlines() if line.startswith("print(")]


def _read(descriptor: int) -> str:
    found = b""
    while True:
        try:
            part = os.read(descriptor, 1 << 16)
        except OSError:  # nobody has the other end any more
            part = b""
        if not part:
            os.close(descriptor)
            return found.decode(errors="replace")
        found += part
