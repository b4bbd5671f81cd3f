"""`flash COMMAND ...`: finds the module that knows the command, and loads that one only.

A command is a function of its module from the parsed options to the exit code (None: 0). What it may be given is
written in `cli.options`, under the same name; `cli.usage` has an example of each.
"""

import os
import sys
from collections.abc import Coroutine, Iterable, Sequence
from dataclasses import dataclass

OK, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130


@dataclass(frozen=True)
class Command:
    """Where a command lives, and what it does."""

    module: str
    function: str
    summary: str


COMMANDS: dict[str, Command] = {
    "up": Command("cli.local", "up", "start the stack of this machine"),
    "down": Command("cli.local", "down", "stop it"),
    "ps": Command("cli.local", "ps", "what runs, and what waits"),
    "doctor": Command("cli.doctor", "doctor", "what is missing on this machine, and how to get it"),
    "login": Command("cli.organisations", "login", "keep a stack and a token, and ask it from now on"),
    "whoami": Command("cli.organisations", "whoami", "which stack is asked, and on whose behalf"),
    "org create": Command("cli.organisations", "org_create", "a new organisation, with its first token"),
    "token create": Command("cli.organisations", "token_create", "a token for somebody of the organisation"),
    "token list": Command("cli.organisations", "token_list", "the tokens that are in use"),
    "token revoke": Command("cli.organisations", "token_revoke", "let nobody use a token any more"),
    "version": Command("cli.local", "version", "which Flash this is"),
    "completion": Command("cli.completion", "completion", "what a shell needs to complete all this"),
    "env setup": Command("cli.environments", "setup", "lay down a starter project in this folder"),
    "env test": Command("cli.testing", "test", "what would go wrong in training, found before it does"),
    "env score": Command("cli.scoring", "score", "what an environment's scorer makes of replies"),
    "env push": Command("cli.environments", "push", "publish a folder as a version of an environment"),
    "env list": Command("cli.environments", "listing", "the published environments"),
    "env show": Command("cli.versions", "show", "a version of an environment, and the runs that used it"),
    "env versions": Command("cli.versions", "versions", "every version of an environment, newest first"),
    "env diff": Command("cli.versions", "diff", "what changed between two versions, or since one"),
    "env pull": Command("cli.versions", "fetch", "get the files of a published environment"),
    "env rollback": Command("cli.versions", "rollback", "let a bare id mean an earlier version"),
    "env delete": Command("cli.versions", "delete", "withdraw a version, or delete an environment"),
    "env eval": Command("cli.evaluation", "evaluate", "how good a model or a checkpoint is at an environment"),
    "train": Command("cli.training", "train", "submit a run and follow it"),
    "runs": Command("cli.runs", "runs", "every run, newest first"),
    "runs delete": Command("cli.deleting", "delete_run", "delete a run that is over, with all that it stored"),
    "status": Command("cli.runs", "status", "how a run stands, with its faults"),
    "log": Command("cli.runs", "log", "what was said about a run, one line a fact"),
    "trace": Command("cli.tracing", "trace", "what led to what in a run, a step or a group, and how long it took"),
    "cancel": Command("cli.runs", "cancel", "stop a run; its checkpoints stay"),
    "resume": Command("cli.runs", "resume", "reopen a failed or cancelled run from its newest checkpoint"),
    "checkpoints": Command("cli.runs", "checkpoints", "the saved steps of a run"),
    "rollouts": Command("cli.rollouts", "rollouts", "what a run's policy said, and what it earned"),
    "chat": Command("cli.chat", "chat", "talk to a base model or a checkpoint"),
    "export": Command("cli.exporting", "export", "a checkpoint as a folder that transformers and peft load"),
    "usage": Command("cli.counting", "usage", "what runs have used: steps, rollouts, tokens"),
    "models": Command("cli.models", "models", "the base models and their limits"),
    "models pull": Command("cli.models", "pull", "fetch a base model before it is needed"),
    "models rm": Command("cli.models", "rm", "remove a base model that was pulled"),
    "gpus": Command("cli.models", "gpus", "the accelerators in the pools"),
}

HELP = """\
usage: flash [--home DIR] [--context NAME] COMMAND ...

Post-train language models from one environment file.

{commands}

options:
  --home DIR       where the local stack keeps its state (FLASH_HOME; ~/.flash)
  --context NAME   ask this stack: see `flash login`
  --json           data as JSON, which is also what a pipe gets
  --debug          show tracebacks
  -h, --help       after a command: its own options
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; gives the exit code: 0 done, 1 failed, 2 usage, 130 interrupted."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    leading, rest = _split_leading(given)
    if not rest or rest[0] in ("-h", "--help"):
        print(_help(), end="")
        return OK
    if rest[0] in ("-V", "--version"):
        rest[0] = "version"
    name, count = _named(rest)
    if name is None:
        print(_unknown(rest), file=sys.stderr)
        return USAGE
    return _run(name, leading + rest[count:])


def _run(name: str, arguments: list[str]) -> int:
    import gc
    import importlib

    from cli.parsing import parser_of

    command = COMMANDS[name]
    try:
        options = parser_of(name, command).parse_args(arguments)
    except SystemExit as exit:
        return int(exit.code or 0)
    try:
        gc.set_threshold(50_000)  # while a command loads there is no garbage to collect, and looking takes a while
        result = getattr(importlib.import_module(command.module), command.function)(options)
        if isinstance(result, Coroutine):
            import asyncio

            result = asyncio.run(result)
        return int(result or OK)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has read enough; what is buffered has nowhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except Exception as error:
        if options.debug:
            raise
        print(_told(error), file=sys.stderr)
        return FAILED


def _split_leading(arguments: list[str]) -> tuple[list[str], list[str]]:
    """The options before the command, and the rest."""
    at = 0
    while (
        at < len(arguments)
        and arguments[at].startswith("-")
        and arguments[at] not in ("-h", "--help", "-V", "--version")
    ):
        at += 2 if arguments[at] in ("--home", "--context") else 1
    return arguments[:at], arguments[at:]


def _named(words: list[str]) -> tuple[str | None, int]:
    """The command that the first words name, and how many they are."""
    for count in (2, 1):
        if (name := " ".join(words[:count])) in COMMANDS:
            return name, count
    return None, 0


def _unknown(words: list[str]) -> str:
    import difflib

    group = [name for name in COMMANDS if name.split()[0] == words[0]]
    wanted = " ".join(words[: 2 if group else 1])
    if group and (len(words) == 1 or words[1] in ("-h", "--help")):
        return "\n".join(["error: one of these is wanted:", *_lines(group)])
    lasts = {name.split()[-1]: name for name in COMMANDS}
    near = [words[0]] if words[0] in lasts else difflib.get_close_matches(wanted, [*COMMANDS, *lasts], n=1)
    meant = f"did you mean `flash {lasts.get(near[0], near[0])}`?" if near else "`flash --help` lists the commands"
    return f"error: there is no command {wanted!r}: {meant}"


def _help() -> str:
    return HELP.format(commands="\n".join(_lines(COMMANDS)))


def _lines(names: Iterable[str]) -> list[str]:
    return [f"  {name:<13}{COMMANDS[name].summary}" for name in names]


def _told(error: Exception) -> str:
    from flash.errors import FlashError

    if isinstance(error, FlashError):
        return f"error: {error}"
    return f"error: {type(error).__name__}: {error}\nThis is a fault of Flash; --debug before the command shows where."


if __name__ == "__main__":
    sys.exit(main())
