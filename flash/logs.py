"""A log for what commands load too.

structlog takes a fifth of a short command's time to load, so it is loaded when there is something to write. Services
load and configure it at once: see `flash.process`.
"""

from typing import Any

_is_silent = False


class Log:
    """structlog's logger, on demand, with `bound` in each line."""

    def __init__(self, **bound: str) -> None:
        self._bound = bound

    def __getattr__(self, method: str) -> Any:
        if _is_silent:
            return _unsaid
        import structlog

        return getattr(structlog.get_logger(**self._bound), method)


def silence(is_silent: bool = True) -> None:
    """Nothing is written from here on: a command tells people itself what they need to know."""
    global _is_silent
    _is_silent = is_silent


def _unsaid(event: str, **fields: object) -> None:
    return None
