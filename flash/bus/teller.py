"""One voice on the stream: first told wins, and of what is fenced only one teller at a time may speak."""

from contextlib import suppress

from flash.bus.wire import Letter, Letters, Moved, Stream
from flash.contracts.base import Event
from flash.errors import Fenced

TRIES = 5
"""How often a first word may find that somebody else spoke between our look at the stream and our word."""


class Teller:
    """Tells facts. Remembers, for each fence, the sequence of its own last word there.

    Each running handler is one teller, and each `publish` is one.
    """

    def __init__(self, stream: Stream, letters: Letters) -> None:
        self._stream = stream
        self._letters = letters
        self._spoken: dict[str, int] = {}

    async def tell(self, event: Event, caused_by: str = "") -> None:
        """The fact is in the stream when this returns. Raises Fenced when somebody else has taken over."""
        letter = await self._letters.write(event, caused_by)
        if event.fence is None:
            with suppress(Moved):  # somebody has told it before: that is just as well
                await self._stream.append(letter, expect=0, over=letter.subject)
        elif (fence := event.fence_pattern()) in self._spoken:
            await self._go_on(letter, fence)
        else:
            await self._begin(letter, fence)

    async def _go_on(self, letter: Letter, fence: str) -> None:
        if not await self._try(letter, fence, expect=self._spoken[fence]):
            raise Fenced(f"{letter.subject} was not told: somebody else has spoken about it since our last word")

    async def _begin(self, letter: Letter, fence: str) -> None:
        for _ in range(TRIES):
            # The fence first: if anything is told after this look, our own word is refused.
            newest = await self._stream.newest(fence)
            told = await self._stream.newest(letter.subject)
            if told is not None:
                if not letter.is_told_by(told):
                    raise Fenced(f"{letter.subject} was told by somebody else, in other words")
                self._spoken[fence] = told.sequence
                return
            if await self._try(letter, fence, expect=newest.sequence if newest else 0):
                return
        raise Fenced(f"{letter.subject} was not told: {TRIES} times somebody else was faster")

    async def _try(self, letter: Letter, fence: str, *, expect: int) -> bool:
        try:
            self._spoken[fence] = await self._stream.append(letter, expect=expect, over=fence)
        except Moved:
            newest = await self._stream.newest(fence)
            if newest is None or not letter.is_told_by(newest):
                return False
            self._spoken[fence] = newest.sequence  # it was ours: only the answer had been lost
        return True
