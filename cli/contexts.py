"""The stacks that somebody is logged in to, kept in the home folder: contexts.json, mode 0600."""

import os
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from cli.stack.home import write_private
from flash.client.connection import ALIAS, TOKEN_VARIABLE, URL_VARIABLE, token_of
from flash.errors import ConfigError

HERE = "local"
"""The stack of this machine, without a token, unless somebody logged in to it under that name."""


class Context(msgspec.Struct, frozen=True, kw_only=True):
    """A stack, and how it is asked."""

    url: str = ""
    """Empty: the one of this machine, wherever it listens."""
    token: str = ""


class Contexts(msgspec.Struct, frozen=True, kw_only=True):
    """All that the file holds."""

    current: str = HERE
    """What is meant where none is named."""
    contexts: dict[str, Context] = {}


def chosen(options: Namespace) -> tuple[str, Context]:
    """The context that `--context` names, else the one logged in to last. Raises ConfigError for none of them."""
    known = read(options.home)
    name = options.context or known.current
    contexts = {HERE: Context(), **known.contexts}
    if name not in contexts:
        there = ", ".join(contexts)
        raise ConfigError(f"there is no context {name!r}, but {there}: `flash login URL --context {name}` makes it")
    return name, contexts[name]


def token(options: Namespace, environment: Mapping[str, str] = os.environ) -> str:
    """What a command asks with; empty for none."""
    return token_of(environment, chosen(options)[1].token)


def overruled(options: Namespace, environment: Mapping[str, str] = os.environ) -> str:
    """A notice, where the environment says something else than a context that somebody chose."""
    name, context = chosen(options)
    if context == Context() and not options.context:
        return ""
    wins = [variable for variable in (URL_VARIABLE, TOKEN_VARIABLE) if environment.get(variable)]
    if TOKEN_VARIABLE not in wins and context.token and token(options, environment) == environment.get(ALIAS):
        wins.append(ALIAS)
    return f"note: {' and '.join(wins)} of the environment over the context {name}" if wins else ""


def save(home: Path, name: str, context: Context) -> None:
    """Keep a context, and choose it."""
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    contexts = {**read(home).contexts, name: context}
    write_private(_file(home), msgspec.json.format(msgspec.json.encode(Contexts(current=name, contexts=contexts))))


def read(home: Path) -> Contexts:
    """Raises ConfigError for a file that cannot be read."""
    try:
        return msgspec.json.decode(_file(home).read_bytes(), type=Contexts)
    except FileNotFoundError:
        return Contexts()
    except (msgspec.DecodeError, OSError) as error:
        raise ConfigError(
            f"{_file(home)} cannot be read ({error}): move it away, and `flash login` makes it anew"
        ) from None


def host(url: str) -> str:
    """Where a stack is, without user and password."""
    parts = urlsplit(url)
    return f"{parts.hostname}:{parts.port or 4222}" if url else "this machine"


def _file(home: Path) -> Path:
    return home.expanduser() / "contexts.json"
