"""`flash completion`: what a shell needs to complete commands, options and files."""

from argparse import ArgumentParser, Namespace, _SubParsersAction
from pathlib import Path
from typing import Any

from cli import output


def completion(options: Namespace) -> None:
    import shtab

    from cli.__main__ import COMMANDS
    from cli.parsing import whole

    parser = whole(COMMANDS)
    _files(parser, shtab.FILE)
    output.line(shtab.complete(parser, shell=options.shell))


def _files(parser: ArgumentParser, completer: Any) -> None:
    """Wherever a path is wanted, files are offered."""
    for action in parser._actions:
        if isinstance(action, _SubParsersAction):
            for command in action.choices.values():
                _files(command, completer)
        elif action.type is Path:
            action.complete = completer  # type: ignore[attr-defined]
