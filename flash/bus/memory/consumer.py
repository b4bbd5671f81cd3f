"""A durable consumer of one process: who holds what, what comes again, who waits."""

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from flash.bus import Pool
from flash.bus.memory.clock import Clock
from flash.bus.wire import Message


class View:
    """A replica, as far as deliveries are concerned."""

    def __init__(self) -> None:
        self.is_frozen = False
        self._deliveries: set[MemoryDelivery] = set()

    def hold(self, delivery: "MemoryDelivery") -> None:
        self._deliveries.add(delivery)

    def release(self, delivery: "MemoryDelivery") -> None:
        self._deliveries.discard(delivery)

    def freeze(self) -> None:
        """Nothing that is held is kept alive any longer, and nothing new is taken."""
        self.is_frozen = True
        for delivery in list(self._deliveries):
            delivery.let_go()


@dataclass(eq=False)
class MemoryDelivery:
    """One delivery of a message to one replica."""

    message: Message
    count: int
    consumer: "MemoryConsumer"
    view: View

    async def ack(self) -> None:
        self._settle(lambda: self.consumer.finish(self.message))

    async def hand_back(self, after_s: float = 0.0) -> None:
        if self.view.is_frozen:
            return
        self._settle(lambda: self.consumer.again(self.message, after_s, self.count))

    async def end(self) -> None:
        self._settle(lambda: self.consumer.finish(self.message))

    def let_go(self) -> None:
        self._settle(lambda: self.consumer.again(self.message, self.consumer.ack_wait_s, self.count))

    def _settle(self, how: Callable[[], None]) -> None:
        self.view.release(self)
        how()


@dataclass(eq=False)
class Seat:
    """A replica's place at a consumer."""

    consumer: "MemoryConsumer"
    view: View
    waiting: deque[asyncio.Future[MemoryDelivery]] = field(default_factory=deque)

    async def next(self) -> MemoryDelivery:
        future: asyncio.Future[MemoryDelivery] = asyncio.get_running_loop().create_future()
        self.waiting.append(future)
        self.consumer.queue.append(self)
        self.consumer.pump()
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():
                await future.result().hand_back()
            raise

    async def stop(self) -> None:
        for future in self.waiting:
            future.cancel()
        self.waiting.clear()


class MemoryConsumer:
    """Gives each matching message to one of the replicas that wait, in the order in which they began to wait."""

    def __init__(
        self,
        name: str,
        messages: list[Message],
        matches: Callable[[str], object],
        clock: Clock,
        ack_wait_s: float,
        purged: set[int],
    ) -> None:
        self.ack_wait_s = ack_wait_s
        self.queue: deque[Seat] = deque()
        self._name = name
        self._messages = messages
        self._matches = matches
        self._clock = clock
        self._purged = purged
        self._looked_at = 0
        self._ready: deque[Message] = deque()
        self._counts: dict[int, int] = {}
        """Deliveries of what is not finished."""

    def seat(self, view: View) -> Seat:
        return Seat(self, view)

    def pump(self) -> None:
        """Give what is there to who waits."""
        for message in self._messages[self._looked_at :]:
            if self._matches(message.subject) and message.sequence not in self._purged:
                self._ready.append(message)
        self._looked_at = len(self._messages)
        while self._ready and (waiter := self._next_waiter()):
            seat, future = waiter
            message = self._ready.popleft()
            count = self._counts[message.sequence] = self._counts.get(message.sequence, 0) + 1
            delivery = MemoryDelivery(message, count, self, seat.view)
            seat.view.hold(delivery)
            future.set_result(delivery)

    def drop(self, gone: list[Message]) -> None:
        """They were taken out of the stream."""
        for message in gone:
            self._counts.pop(message.sequence, None)
            with suppress(ValueError):
                self._ready.remove(message)

    def finish(self, message: Message) -> None:
        """Nobody gets it again, whoever else may hold it: so does JetStream."""
        self._counts.pop(message.sequence, None)

    def again(self, message: Message, after_s: float, count: int) -> None:
        """It comes again, unless it was finished or given to somebody else meanwhile."""

        def ready() -> None:
            if self._counts.get(message.sequence) == count and message not in self._ready:
                self._ready.append(message)
                self.pump()

        if after_s > 0:
            self._clock.call_later(after_s, ready)
        else:
            ready()

    def pool(self) -> Pool:
        waiting = len(self._ready)
        asking = sum(1 for seat in self.queue for future in seat.waiting if not future.done())
        return Pool(
            self._name, waiting, len(self._counts) - sum(m.sequence in self._counts for m in self._ready), asking
        )

    def _next_waiter(self) -> tuple[Seat, asyncio.Future[MemoryDelivery]] | None:
        while self.queue:
            seat = self.queue.popleft()
            while seat.waiting:
                future = seat.waiting.popleft()
                if not future.done() and not seat.view.is_frozen:
                    return seat, future
        return None
