"""Writes `docs/cli.md` from the table of commands and their parsers: `python -m cli.document docs`."""

import sys
from argparse import SUPPRESS, Action, ArgumentParser
from collections.abc import Iterator
from pathlib import Path

from cli.__main__ import COMMANDS
from cli.parsing import parser_of, sentence
from cli.usage import EXAMPLES

EVERYWHERE = ("-h", "--home", "--json", "--debug", "--context")
"""Options of every command, told once."""

OPENING = """\
# The command line

Generated from `cli/__main__.py`, `cli/options.py` and `cli/usage.py`; do not edit by hand.

Data goes to stdout, notes and progress to stderr. On a terminal lists are tables; on a pipe, and with `--json`, they
are JSON. `NO_COLOR` is honoured, and a terminal without Unicode gets ASCII.

| exit code | when |
| --- | --- |
| 0 | done |
| 1 | something is wrong with what was asked, or the followed run failed or was cancelled |
| 2 | the command was typed wrongly |
| 130 | Ctrl-C |

Every command knows `--home DIR`, where the local stack keeps its state (`FLASH_HOME`; `~/.flash`), `--context NAME`,
which of the stacks that you are logged in to is asked (default: the last one, else that of this machine), `--json`,
`--debug`, which shows tracebacks, and `--help`.
"""


def cli_page() -> str:
    """Every command with what it may be given and an example."""
    listing = [f"| [`{name}`](#flash-{name.replace(' ', '-')}) | {c.summary} |" for name, c in COMMANDS.items()]
    lines = [OPENING, "| command | what it does |", "| --- | --- |", *listing, ""]
    for name, command in COMMANDS.items():
        parser = parser_of(name, command)
        lines += [f"## `flash {name}`", "", sentence(command.summary), "", "```", EXAMPLES[name], "```", ""]
        if rows := list(_rows(parser)):
            lines += ["| option | meaning |", "| --- | --- |", *rows, ""]
    return "\n".join(lines)


def write(folder: Path) -> None:
    (folder / "cli.md").write_text(cli_page())


def _rows(parser: ArgumentParser) -> Iterator[str]:
    for action in parser._actions:
        if not set(action.option_strings) & set(EVERYWHERE) and action.help is not SUPPRESS:
            yield f"| `{_spelled(action)}` | {(action.help or '').replace('|', chr(92) + '|')} |"


def _spelled(action: Action) -> str:
    """`-n, --limit N`, `CONFIG`, `[PATH]`."""
    value = str(action.metavar or ("|".join(map(str, action.choices)) if action.choices else action.dest.upper()))
    value = value.replace("|", r"\|")
    if not action.option_strings:
        return {"?": f"[{value}]", "*": f"[{value}...]", "+": f"{value}..."}.get(str(action.nargs), value)
    names = ", ".join(action.option_strings)
    return names if action.nargs == 0 else f"{names} {value}"


if __name__ == "__main__":
    write(Path(sys.argv[1]))
