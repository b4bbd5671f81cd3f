"""When a text has come to one of its stop strings, and what of it may be shown already. Pure."""

from collections.abc import Callable, Sequence

Decode = Callable[[Sequence[int]], str]
"""Token ids to text, without special tokens."""

_SPARE_TOKENS = 8
"""Room for tokens that give no text (special ones), so that they do not push a stop string out of sight."""


def first_stop(text: str, stop: Sequence[str]) -> int | None:
    """Where the earliest stop string begins."""
    found = [at for at in (text.find(word) for word in stop) if at >= 0]
    return min(found, default=None)


def has_stopped(ids: Sequence[int], stop: Sequence[str], decode: Decode) -> bool:
    """Has the newest token completed a stop string?

    Looks at the last tokens first: each gives at least a byte, so a stop string spans no more tokens than it has bytes.
    """
    window = max(len(word.encode()) for word in stop) + _SPARE_TOKENS
    return first_stop(decode(ids[-window:]), stop) is not None and first_stop(decode(ids), stop) is not None


def showable(text: str, stop: Sequence[str]) -> str:
    """What can be shown while more is coming: no half character, and nothing that may yet become a stop string."""
    text = text.rstrip("\ufffd")
    held = max((_overlap(text, word) for word in stop), default=0)
    return text[: len(text) - held]


def _overlap(text: str, word: str) -> int:
    """How much of the start of `word` stands at the end of `text`."""
    return next((n for n in range(min(len(word) - 1, len(text)), 0, -1) if text.endswith(word[:n])), 0)
