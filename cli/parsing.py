"""From words to options: the parser of a command, and of all of them at once for shells and docs."""

import difflib
import os
import re
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from cli import options
from cli.usage import EXAMPLES

if TYPE_CHECKING:
    from cli.__main__ import Command

GROUPS = {"env": "environments", "org": "organisations", "token": "tokens"}
"""First words that are no command by themselves."""


class Parser(ArgumentParser):
    """argparse's, which names the nearest option when it meets one that is not there."""

    def error(self, message: str) -> NoReturn:
        if unknown := re.match(r"unrecognized arguments: (--[\w-]+)", message):
            known = [option for action in self._actions for option in action.option_strings]
            if near := difflib.get_close_matches(unknown[1], known, n=1):
                message += f": did you mean {near[0]}?"
        super().error(message)


def parser_of(name: str, command: "Command") -> Parser:
    """The parser of one command, with an example below its options."""
    parser = Parser(prog=f"flash {name}", allow_abbrev=False, formatter_class=RawDescriptionHelpFormatter)
    fill(parser, name, command)
    return parser


def fill(parser: ArgumentParser, name: str, command: "Command") -> None:
    """What a command may be given, and what it says of itself."""
    parser.description = sentence(command.summary)
    parser.epilog = f"example:\n  {EXAMPLES[name]}" if name in EXAMPLES else None
    if add := getattr(options, command.function, None):
        add(parser)
    home = Path(os.environ.get("FLASH_HOME") or Path.home() / ".flash")
    parser.add_argument("--home", type=Path, default=home, metavar="DIR", help="where the local stack keeps its state")
    which = "ask this stack; default: the one logged in to last, else that of this machine"
    parser.add_argument("--context", metavar="NAME", help=which)
    parser.add_argument("--json", action="store_true", help="data as JSON, which is also what a pipe gets")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")


def whole(commands: Mapping[str, "Command"]) -> Parser:
    """One parser of every command: what a shell completes by."""
    root = Parser(prog="flash", description="Post-train language models from one environment file.", allow_abbrev=False)
    words = root.add_subparsers()
    groups = {first: words.add_parser(first, help=what) for first, what in GROUPS.items() if _is_group(first, commands)}
    for name, command in commands.items():
        if " " not in name:
            groups[name] = words.add_parser(name, help=command.summary)
            fill(groups[name], name, command)
    seconds = {first: groups[first].add_subparsers() for first in {n.split()[0] for n in commands if " " in n}}
    for name, command in commands.items():
        first, _, second = name.partition(" ")
        if second:
            fill(seconds[first].add_parser(second, help=command.summary), name, command)
    return root


def sentence(summary: str) -> str:
    return f"{summary[0].upper()}{summary[1:]}."


def _is_group(first: str, commands: Mapping[str, "Command"]) -> bool:
    return any(name.startswith(f"{first} ") for name in commands)
