"""Whether a run still wants to be worked at."""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from services.learner.failures import RunOver

T = TypeVar("T")


class Over:
    """Said once; heard by whoever waits, and by threads that ask."""

    def __init__(self) -> None:
        self._said = asyncio.Event()

    def say(self) -> None:
        self._said.set()

    def is_wanted(self) -> bool:
        return not self._said.is_set()

    async def unless(self, work: Awaitable[T]) -> T:
        """What the work gives. Raises RunOver, and cancels the work, as soon as the run is over."""
        working = asyncio.ensure_future(work)
        said = asyncio.ensure_future(self._said.wait())
        try:
            await asyncio.wait({working, said}, return_when=asyncio.FIRST_COMPLETED)
            if said.done():
                raise RunOver
            return await working
        finally:
            said.cancel()
            if not working.done():
                working.cancel()
                await asyncio.wait({working})
