"""Parsers, examples, completion and the generated page: all of them follow the table of commands."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from cli.__main__ import COMMANDS, main
from cli.document import EVERYWHERE, cli_page
from cli.parsing import parser_of
from cli.usage import EXAMPLES

PAGE = Path(__file__).parents[2] / "docs" / "cli.md"


def test_every_command_has_an_example_and_every_example_a_command() -> None:
    assert EXAMPLES.keys() == COMMANDS.keys()


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_is_a_command_that_can_be_typed(name: str) -> None:
    words = shlex.split(re.split(r" >>? ", EXAMPLES[name])[0])
    leading = ["flash", *name.split()]

    assert words[: len(leading)] == leading
    parser_of(name, COMMANDS[name]).parse_args(words[len(leading) :])


@pytest.mark.parametrize("name", COMMANDS)
def test_help_shows_the_example_and_a_word_on_every_option(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*name.split(), "--help"]) == 0

    assert f"example:\n  {EXAMPLES[name]}\n" in capsys.readouterr().out
    unexplained = [action.dest for action in parser_of(name, COMMANDS[name])._actions if not action.help]
    assert unexplained == []


def test_the_page_is_current() -> None:
    assert PAGE.read_text() == cli_page(), "`make docs` writes it anew"


def test_the_page_names_every_option_of_every_command() -> None:
    page = cli_page()

    for name, command in COMMANDS.items():
        section = page.split(f"## `flash {name}`\n")[1].split("\n## ")[0]
        for action in parser_of(name, command)._actions:
            assert action.option_strings[:1] == ["-h"] or all(
                option in section for option in action.option_strings if option not in EVERYWHERE
            )


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["train", "c.toml", "--backgroud"], "--backgroud: did you mean --background?"),
        (["env", "push", "--name", "x", "--confg"], "--confg: did you mean --config?"),
    ],
)
def test_an_option_that_is_not_there_is_met_with_the_nearest(
    words: list[str], meant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2

    assert f"error: unrecognized arguments: {meant}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        (["env", "pu"], {"push"}),
        (["tra"], {"train"}),
        (["models", "pu"], {"pull"}),
        (["train", "--back"], {"--background"}),
        (["rollouts", "--wh"], {"--where"}),
        (["train", "conf"], {"configs/rl.toml"}),
    ],
)
def test_bash_completes_commands_options_and_files(
    typed: list[str], offered: set[str], project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "configs").mkdir()
    (project / "configs" / "rl.toml").touch()
    assert main(["completion", "bash"]) == 0
    words = " ".join(shlex.quote(word) for word in ["flash", *typed])
    script = (
        f"{capsys.readouterr().out}\nCOMP_WORDS=({words}); COMP_CWORD={len(typed)}; "
        f'_shtab_flash flash {shlex.quote(typed[-1])} ""; printf "%s\\n" "${{COMPREPLY[@]}}"'
    )

    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)

    found = {word.strip() for word in done.stdout.split()}
    assert offered <= found | {f"{word}/rl.toml" for word in found}


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_are_served_too(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0

    out = capsys.readouterr().out
    assert all(word in out for name in COMMANDS for word in name.split())
    assert "background" in out
