"""A durable pull consumer as one replica sees it: no more is asked for than there are free slots."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

from nats.aio.msg import Msg

from flash.bus.jetstream.connection import Connection
from flash.bus.jetstream.delivery import JetStreamDelivery, message, place
from flash.bus.jetstream.keeper import Keeper
from flash.bus.jetstream.pull import Pull


class SharedConsumer:
    """Each call of `next` that waits is a free slot."""

    def __init__(
        self, connection: Connection, stream: str, prepare: Callable[[], Awaitable[str]], keeper: Keeper
    ) -> None:
        self._connection = connection
        self._keeper = keeper
        self._pull = Pull(connection, stream, prepare, self._take)
        self._waiting: deque[asyncio.Future[JetStreamDelivery]] = deque()
        self._handing_back: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        await self._pull.start()

    async def next(self) -> JetStreamDelivery:
        future: asyncio.Future[JetStreamDelivery] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        self._pull.want(len(self._waiting))
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():
                await future.result().hand_back()
            elif future in self._waiting:
                self._waiting.remove(future)
                self._pull.want(len(self._waiting))
            raise

    async def stop(self) -> None:
        self._waiting.clear()
        await self._pull.stop()
        if self._handing_back:
            await asyncio.wait(self._handing_back)

    def _take(self, msg: Msg) -> None:
        at = place(msg)
        self._keeper.hold(msg.reply)
        delivery = JetStreamDelivery(message(msg, at), at.deliveries, msg.reply, self._connection, self._keeper)
        while self._waiting:
            future = self._waiting.popleft()
            if not future.done():
                future.set_result(delivery)
                return
        # No slot is free: we are closing, or what was lost has come after all.
        task = asyncio.create_task(delivery.hand_back())
        self._handing_back.add(task)
        task.add_done_callback(self._handing_back.discard)
