"""The clock of the memory bus, so that a test can let an hour pass."""

import asyncio
import heapq
import itertools
import time
from collections.abc import Callable
from typing import Protocol


class Clock(Protocol):
    def time(self) -> float:
        """Seconds since the epoch."""

    def call_later(self, delay_s: float, call: Callable[[], None]) -> None: ...


class RealClock:
    """The machine's."""

    def time(self) -> float:
        return time.time()

    def call_later(self, delay_s: float, call: Callable[[], None]) -> None:
        asyncio.get_running_loop().call_later(delay_s, call)


class HandMovedClock:
    """Stands still until it is moved."""

    def __init__(self, now: float = 1_700_000_000.0) -> None:
        self._now = now
        self._calls: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()

    def time(self) -> float:
        return self._now

    def call_later(self, delay_s: float, call: Callable[[], None]) -> None:
        heapq.heappush(self._calls, (self._now + delay_s, next(self._order), call))

    def advance(self, seconds: float) -> None:
        end = self._now + seconds
        while self._calls and self._calls[0][0] <= end:
            self._now, _, call = heapq.heappop(self._calls)
            call()
        self._now = end
