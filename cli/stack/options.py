"""What a person chooses about the stack of one machine."""

from pathlib import Path

import msgspec


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """One `flash up`."""

    home: Path
    """Where all state lies; made when it is not there."""
    models: tuple[str, ...] = ("tiny",)
    """Base models; each has rollouts and learners of its own."""
    rollouts: int = 1
    """Per model."""
    scorers: int = 1
    learners: int = 1
    """Per model."""
    detach: bool = False
    """Go on in the background, and return once the stack takes requests."""
    first_env: dict[str, dict[str, str]] = {}
    """By part: environment variables of its first start only, for tests that kill it at a named point."""


def packed(options: Options) -> bytes:
    return msgspec.json.encode(options, enc_hook=str)


def unpacked(data: bytes) -> Options:
    return msgspec.json.decode(data, type=Options, dec_hook=lambda kind, found: kind(found))
