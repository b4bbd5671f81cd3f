"""Waiting for several descriptors: `epoll` where there is one, else `poll`, which macOS has too."""

import math
import select

IN, OUT, ERR, HUP = 1, 4, 8, 16
"""The same for both, on every system."""


class Poll:
    """`select.poll` in the manner of `select.epoll`."""

    def __init__(self) -> None:
        self._poll = select.poll()
        self.register, self.modify, self.unregister = self._poll.register, self._poll.modify, self._poll.unregister

    def poll(self, timeout: float | None = None) -> list[tuple[int, int]]:
        """`timeout` in seconds; None: for as long as it takes."""
        return self._poll.poll(None if timeout is None else math.ceil(timeout * 1_000))


def poller() -> "select.epoll | Poll":
    return select.epoll() if hasattr(select, "epoll") else Poll()


def descriptors(of: "select.epoll | Poll") -> list[int]:
    """What it holds open."""
    return [] if isinstance(of, Poll) else [of.fileno()]
