"""TRAINING.md, the playbook that every project gets: its commands are typed, one after another, as they stand there."""

import re
import shlex
from pathlib import Path

import pytest

from cli.__main__ import COMMANDS, main
from cli.parsing import parser_of
from cli.scaffold import TEMPLATES, files
from tests.walk.conftest import ROOT, Terminal

PLAYBOOK = (ROOT / "cli/templates/TRAINING.md").read_text()
BLOCKS = re.findall(r"```sh\n(.*?)```", PLAYBOOK, flags=re.S)
LINES = [line for block in BLOCKS for line in block.splitlines()]
SMALLER = {"smollm2-135m": "tiny", "-n 50 -r 4": "-n 4 -r 2"}
"""So that it takes a minute, and nothing is downloaded."""


def test_every_template_brings_the_playbook() -> None:
    assert all("TRAINING.md" in dict(files(template)) for template in TEMPLATES)


def test_the_playbook_speaks_of_commands_that_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    spoken = {words for line in re.findall(r"`flash ([^`]*)`|^flash (.*)$", PLAYBOOK, flags=re.M) for words in line}

    for words in filter(None, spoken - {"COMMAND --help"}):
        two, one = " ".join(words.split()[:2]), words.split()[0]
        assert two in COMMANDS or one in COMMANDS, words
    assert main(["--help"]) == 0


def test_the_playbook_has_a_word_on_each_thing_that_it_is_to_teach() -> None:
    for heading in (
        "Commands", "The loop", "Before you trust a run", "Designing a reward", "SFT", "GRPO knobs", "Curriculum",
        "Diagnosing", "Common problems", "Noise",
    ):  # fmt: skip
        assert f"\n## {heading}\n" in PLAYBOOK
    for word in ("baseline", "One change", "Graded and dense", "silent failure", "judge behind", "no variance",
                 "answers are cut", "drifted", "reward hacking", "1.96 · sqrt(p(1 − p) / N)"):  # fmt: skip
        assert word.lower() in PLAYBOOK.lower(), word


def test_the_readme_types_commands_that_can_be_typed() -> None:
    block = (ROOT / "README.md").read_text().split("## Your own task")[1].split("```")[1]
    typed = [part.strip() for line in block.strip().splitlines() for part in line.split("#")[0].split("&&")]

    assert len(typed) > 10
    for line in typed:
        words = shlex.split(line)[1:] if line.startswith("flash ") else []
        name = next((" ".join(words[:n]) for n in (2, 1) if " ".join(words[:n]) in COMMANDS), "")
        assert name or re.match("mkdir|cd", line), line
        if name:
            parser_of(name, COMMANDS[name]).parse_args(words[len(name.split()) :])


@pytest.mark.slow
def test_every_command_of_the_playbook_does_what_it_says(terminal: Terminal) -> None:
    terminal("flash env setup --template sort -y")
    run = ""

    for line in LINES:
        for word, instead in SMALLER.items():
            line = line.replace(word, instead)
        typed = terminal(line.replace("RUN", run) if run else line)
        if "train " in line and not re.search("--dry-run|--cost", line):
            run = typed.run_id

    exported = terminal.folder / "rollouts/rollouts.parquet"
    assert exported.stat().st_size > 0
    assert (terminal.folder / "my-model/adapter_model.safetensors").is_file()
    assert terminal.typed[-1].line.startswith("flash export")
    assert not Path(terminal.folder / "RUN").exists()
