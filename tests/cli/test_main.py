"""Finding a command: cli/__main__.py."""

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from cli.__main__ import COMMANDS, main

FLASH = Path(sys.executable).with_name("flash")
HEAVY = (
    "torch", "transformers", "peft", "services", "nats", "minio", "pydantic", "rich", "structlog", "psutil", "asyncio",
    "msgspec",
)  # fmt: skip


def loaded_by(code: str) -> list[str]:
    """The heavy modules that are in the interpreter after running this."""
    script = f"{code}\nimport sys\nprint('HEAVY', [name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    found: list[str] = eval(done.stdout.rpartition("HEAVY ")[2])
    return found


def test_help_loads_nothing_but_the_table_of_commands() -> None:
    assert loaded_by("from cli.__main__ import main; main(['--help'])") == []


def test_the_help_of_a_command_loads_nothing_heavy_either() -> None:
    code = "from cli.__main__ import COMMANDS, main\nfor name in COMMANDS: main([*name.split(), '--help'])"

    assert loaded_by(code) == []


def test_no_command_loads_torch_or_a_service_or_the_clients_of_bus_and_store() -> None:
    modules = sorted({command.module for command in COMMANDS.values()})

    assert not {"torch", "transformers", "peft", "services", "nats", "minio"} & set(
        loaded_by(f"import {', '.join(modules)}")
    )


def test_a_command_that_asks_waits_for_no_logger_and_draws_a_table_that_fits_without_help() -> None:
    code = "import cli.runs, cli.versions, flash.bus.jetstream\nfrom cli import output\noutput.table(['RUN'], [['a']])"

    assert not {"rich", "structlog", "psutil", "pydantic"} & set(loaded_by(code))


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0

    out = capsys.readouterr().out
    assert all(f"  {name} " in out for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*name.split(), "--help"]) == 0

    assert f"usage: flash {name}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["trian"], "error: there is no command 'trian': did you mean `flash train`?"),
        (["env", "psuh"], "error: there is no command 'env psuh': did you mean `flash env push`?"),
        (["push"], "error: there is no command 'push': did you mean `flash env push`?"),
        (["qqq"], "error: there is no command 'qqq': `flash --help` lists the commands"),
        (["env"], "error: one of these is wanted:"),
    ],
)
def test_what_is_no_command_is_met_with_the_nearest(
    words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2

    assert capsys.readouterr().err.splitlines()[0] == sentence


def test_an_option_that_nobody_knows_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", "--nonsense"]) == 2


def test_without_a_stack_a_command_says_how_to_start_one(capsys: pytest.CaptureFixture[str], project: object) -> None:
    assert main(["runs"]) == 1

    assert "start one with `flash up`" in capsys.readouterr().err


def test_the_home_may_stand_before_the_command(capsys: pytest.CaptureFixture[str], project: object) -> None:
    assert main(["--home", "/nowhere", "runs"]) == 1

    assert "/nowhere" in capsys.readouterr().err


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["version"]) == 0
    assert main(["-V"]) == 0

    first, second = capsys.readouterr().out.splitlines()
    assert first == second
    assert first.startswith("flash ")


def test_an_interrupted_command_ends_with_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("cli.local.version", interrupted)

    assert main(["version"]) == 130


@pytest.mark.parametrize("words", [["--help"], ["train", "--help"], ["env", "eval", "--help"]])
def test_help_takes_less_than_a_fifth_of_a_second_of_cpu(words: list[str]) -> None:
    def cpu_s() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([str(FLASH), *words], check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert min(cpu_s() for _ in range(3)) < 0.2, "the least of three: others may be busy on this machine"
