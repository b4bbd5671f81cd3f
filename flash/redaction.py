"""Keeping secrets out of what is written: log lines, captured output, errors. Imports nothing heavy.

A secret is found as it is, and as JSON, Python's `repr` and a URL write it. Who encodes it otherwise (base64, letter by
letter) means to give it away, and is not stopped here.
"""

import json
import re
import resource
from collections.abc import Iterable
from typing import Any
from urllib.parse import quote, quote_plus

LEAST_CHARS = 6
"""A shorter value is taken for a setting: to mask it would spoil what is told."""
_LEAST_LINE = 16
"""Lines of a value that has several are masked alone, from this length on."""
_LEAST_PIECE = 4
"""Less of a secret is chance."""
_MOST_GUARDED = 16_384

_guarded: dict[str, None] = {}
_found: re.Pattern[str] | None = None


def spellings(value: str) -> list[str]:
    """How a secret may stand in a text; empty for a value that is too short to be masked."""
    if len(value) < LEAST_CHARS:
        return []
    lines = [line for line in value.splitlines() if len(line) >= _LEAST_LINE]
    values = dict.fromkeys((value, value.strip(), *lines))
    written = (json.dumps, lambda text: json.dumps(text, ensure_ascii=False), repr)
    found = [
        (text, *(write(text)[1:-1] for write in written), quote(text, safe=""), quote_plus(text)) for text in values
    ]
    return list(dict.fromkeys(text for texts in found for text in texts if len(text) >= LEAST_CHARS))


class Masks:
    """What must not be told, and what is told in its place: as long, so that a frame stays a frame."""

    def __init__(self, values: Iterable[str]) -> None:
        found = {text.encode() for value in values for text in spellings(value)}
        self._found = sorted(found, key=len, reverse=True)

    def over(self, data: bytes) -> bytes:
        for value in self._found:
            data = data.replace(value, b"*" * len(value))
        return data

    def at_the_ends(self, data: bytes) -> bytes:
        """Output is cut where it gets too long, or where an answer was told: also through a secret."""
        for value in self._found:
            for size in range(len(value) - 1, _LEAST_PIECE - 1, -1):
                if data.endswith(value[:size]):
                    data = data[:-size] + b"*" * size
                if data.startswith(value[-size:]):
                    data = b"*" * size + data[size:]
        return data


def guard(values: Iterable[str]) -> None:
    """From now on these are masked in this process's log, and it leaves no core file when it dies."""
    global _found
    # Of 1 byte: where cores go to a program (core_pattern with a `|`) a limit of 0 is not looked at, and this one is.
    core = int(resource.getrlimit(resource.RLIMIT_CORE)[1] != 0)
    resource.setrlimit(resource.RLIMIT_CORE, (core, core))
    before = len(_guarded)
    _guarded.update(dict.fromkeys(text for value in values for text in spellings(value)))
    if len(_guarded) == before:
        return
    while len(_guarded) > _MOST_GUARDED:
        del _guarded[next(iter(_guarded))]
    _found = re.compile("|".join(re.escape(text) for text in sorted(_guarded, key=len, reverse=True)))


def masked(text: str) -> str:
    """The text without the secrets that this process guards."""
    return _found.sub(lambda match: "*" * len(match[0]), text) if _found else text


def masked_line(logger: Any, method: str, line: Any) -> str:
    """The last of structlog's processors: what is written is a line without secrets."""
    return masked(str(line))
