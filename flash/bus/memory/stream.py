"""The stream of one process, and each replica's view of it."""

import asyncio
import re
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace

from flash.bus import Pool, Shared
from flash.bus.memory.clock import Clock, RealClock
from flash.bus.memory.consumer import MemoryConsumer, View
from flash.bus.memory.switchboard import Desk
from flash.bus.wire import Consumer, Letter, Message, Moved
from flash.records import MemoryRecords, Records


class MemoryStream:
    """Every fact, dead letter, consumer, record and answering replica that the buses of one process share."""

    def __init__(self, *, ack_wait_s: float = 10.0, clock: Clock | None = None) -> None:
        self.clock: Clock = clock or RealClock()
        self.ack_wait_s = ack_wait_s
        self.messages: list[Message] = []
        """In order; the message with sequence n is at n - 1, also once it was purged."""
        self.purged: set[int] = set()
        """Sequences of messages that nobody is to see again."""
        self.dead_letters: list[Letter] = []
        self.desks: list[Desk] = []
        self._newest: dict[str, Message] = {}
        self._consumers: dict[str, MemoryConsumer] = {}
        self._buckets: dict[str, MemoryRecords] = {}
        self._grown = asyncio.Event()

    def view(self) -> "MemoryView":
        return MemoryView(self)

    def append(self, letter: Letter, *, expect: int, over: str) -> int:
        newest = self.newest(over)
        if (newest.sequence if newest else 0) != expect:
            raise Moved(f"the last sequence on {over} is {newest and newest.sequence}, not {expect}")
        sequence = len(self.messages) + 1
        message = Message(letter.subject, dict(letter.headers), letter.body, sequence, self.clock.time())
        self.messages.append(message)
        self._newest[letter.subject] = message
        self._grown.set()
        self._grown = asyncio.Event()
        for consumer in self._consumers.values():
            consumer.pump()
        return sequence

    def newest(self, pattern: str) -> Message | None:
        if "*" not in pattern and not pattern.endswith(">"):
            return self._newest.get(pattern)
        matches = matcher(pattern)
        found = [message for subject, message in self._newest.items() if matches(subject)]
        return max(found, key=lambda message: message.sequence, default=None)

    def purge(self, pattern: str, before: int) -> None:
        matches = matcher(pattern)
        gone = [m for m in self.messages[: before - 1] if m.sequence not in self.purged and matches(m.subject)]
        self.purged.update(message.sequence for message in gone)
        for message in gone:
            if self._newest.get(message.subject) is message:
                del self._newest[message.subject]
        for consumer in self._consumers.values():
            consumer.drop(gone)

    async def grown(self) -> None:
        """Returns when the next message has been appended."""
        await self._grown.wait()

    def consumer(self, subscription: Shared) -> MemoryConsumer:
        if subscription.name not in self._consumers:
            matches = matcher(subscription.event.pattern(**subscription.where))
            self._consumers[subscription.name] = MemoryConsumer(
                subscription.name, self.messages, matches, self.clock, self.ack_wait_s, self.purged
            )
        return self._consumers[subscription.name]

    def pools(self) -> list[Pool]:
        return [consumer.pool() for consumer in self._consumers.values()]

    def records(self, bucket: str) -> Records:
        return self._buckets.setdefault(bucket, MemoryRecords())


class MemoryView(View):
    """The stream as one replica sees it; what the replica holds is forgotten when it is frozen."""

    def __init__(self, stream: MemoryStream) -> None:
        super().__init__()
        self._stream = stream

    async def append(self, letter: Letter, *, expect: int, over: str) -> int:
        await asyncio.sleep(0)  # as with a server, others get a turn
        return self._stream.append(letter, expect=expect, over=over)

    async def newest(self, pattern: str) -> Message | None:
        return self._stream.newest(pattern)

    async def last_sequence(self) -> int:
        return len(self._stream.messages)

    def read(self, patterns: Sequence[str], after: int, *, follow: bool) -> "MemoryReading":
        return MemoryReading(self._stream, matcher(*patterns), after, follow=follow)

    async def purge(self, pattern: str, before: int) -> None:
        self._stream.purge(pattern, before)

    async def bury(self, letter: Letter) -> None:
        self._stream.dead_letters.append(letter)

    async def consume(self, subscription: Shared) -> Consumer:
        return self._stream.consumer(subscription).seat(self)

    async def pools(self) -> list[Pool]:
        return self._stream.pools()


class MemoryReading:
    """One reading."""

    def __init__(self, stream: MemoryStream, matches: Callable[[str], object], after: int, *, follow: bool) -> None:
        self._stream = stream
        self._matches = matches
        self._seen = after
        self._follow = follow
        self._end = len(stream.messages)
        self._waiting: deque[Message] = deque()

    def __aiter__(self) -> "MemoryReading":
        return self

    async def __anext__(self) -> Message:
        while True:
            there = self._stream.messages[self._seen : None if self._follow else self._end]
            purged = self._stream.purged
            self._waiting.extend(m for m in there if self._matches(m.subject) and m.sequence not in purged)
            self._seen += len(there)
            while self._waiting:
                message = self._waiting.popleft()
                if message.sequence not in purged:
                    return replace(message, pending=len(self._waiting))
            if not self._follow:
                raise StopAsyncIteration
            await self._stream.grown()

    async def aclose(self) -> None:
        return None


def matcher(*patterns: str) -> Callable[[str], object]:
    """Whether a subject is one of these: `*` is any token, `>` what remains."""
    return re.compile("|".join(_expression(pattern) for pattern in patterns)).fullmatch


def _expression(pattern: str) -> str:
    tokens = [".+" if token == ">" else r"[^.]+" if token == "*" else re.escape(token) for token in pattern.split(".")]
    return r"\.".join(tokens)
