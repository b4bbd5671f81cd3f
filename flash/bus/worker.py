"""One shared subscription in one process: takes messages, lets the handler work, tells what follows, acknowledges."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Collection, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, cast

import msgspec

from flash import chaos
from flash.bus import Shared
from flash.bus.teller import Teller
from flash.bus.wire import REASON, Consumer, Delivery, Letter, Letters, Message, Stream
from flash.contracts.base import Event
from flash.errors import Fenced, Rejected, StoreError
from flash.logs import Log

MOMENT_S = 0.5
"""How long a handler may go on when we leave, where nothing says when it will be done."""
CANCEL_WAIT_S = 2.0
"""How long a cancelled handler may take to end."""
LATELY = 32
"""Of how many messages it is remembered how long they took."""


@dataclass
class Held:
    """A message that a handler works at, by its latest delivery."""

    delivery: Delivery

    @property
    def message(self) -> Message:
        return self.delivery.message


class Worker:
    """As many tasks as the subscription has slots; each takes a message, works at it, and takes the next."""

    def __init__(
        self, subscription: Shared, consumer: Consumer, stream: Stream, letters: Letters, *, retry_s: float
    ) -> None:
        self._subscription = subscription
        self._consumer = consumer
        self._stream = stream
        self._letters = letters
        self._retry_s = retry_s
        self._held: dict[int, Held] = {}
        self._busy: dict[asyncio.Task[None], float] = {}
        """The slots that work at a message, and since when."""
        self._took_s: deque[float] = deque(maxlen=LATELY)
        self._raises: dict[str, int] = {}
        self.done = 0
        """Messages worked through and acknowledged."""
        self._closing = False
        self._log = Log(subscription=subscription.name)
        self._slots = [asyncio.create_task(self._slot()) for _ in range(subscription.slots)]

    async def close(self, grace_s: float) -> None:
        """Take nothing more, let running handlers finish for `grace_s`, hand back the rest.

        Going by the slowest of the last ones: what would not be done in time is handed back at once, and what has taken
        longer than all of them already, or is among the first, after a moment.
        """
        self._closing = True
        now, usual_s = asyncio.get_running_loop().time(), max(self._took_s, default=0.0)
        left_s = {task: usual_s - (now - since) for task, since in self._busy.items()}
        for task in self._slots:
            if left_s.get(task, grace_s + 1) > grace_s:
                task.cancel()
        await self._consumer.stop()
        await _end([task for task, left in left_s.items() if left <= 0], by=now + min(MOMENT_S, grace_s))
        await _end(self._slots, by=now + grace_s)
        _, stuck = await asyncio.wait(self._slots, timeout=CANCEL_WAIT_S)
        if stuck:
            self._log.warning("handler.stuck", handlers=len(stuck))

    async def _slot(self) -> None:
        me = cast("asyncio.Task[None]", asyncio.current_task())
        while not self._closing:
            delivery = await self._consumer.next()
            if held := self._held.get(delivery.message.sequence):
                # The server lost track (it was killed, or we were stopped) and gave us what we are working at.
                held.delivery.let_go()
                held.delivery = delivery
                continue
            self._busy[me] = asyncio.get_running_loop().time()
            held = self._held[delivery.message.sequence] = Held(delivery)
            try:
                await self._work(held)
            finally:
                del self._held[held.message.sequence]
                del self._busy[me]

    async def _work(self, held: Held) -> None:
        try:
            await self._hear(held)
        except asyncio.CancelledError:
            await held.delivery.hand_back()
            if _is_being_cancelled():
                raise
        except Fenced as error:
            # Whoever has taken over holds the message too. An acknowledgement of ours would end it for them, and
            # handing it back would start a third.
            held.delivery.let_go()
            self._log.info("handler.fenced", subject=held.message.subject, reason=str(error))
        except Exception:
            self._log.exception("handler.failed", subject=held.message.subject)
            await held.delivery.hand_back(self._delay_s(held.message.subject))

    async def _hear(self, held: Held) -> None:
        subscription, message = self._subscription, held.message
        try:
            event = subscription.event.decode(await self._letters.body_of(message))
        except (msgspec.ValidationError, msgspec.DecodeError) as error:
            return await self._bury(held, f"{message.subject} is no {subscription.event.__name__}: {error}")
        except StoreError as error:
            if not self._is_worn_out(held):
                raise
            return await self._bury(held, f"the body of {message.subject} cannot be had: {error}")
        if self._is_worn_out(held):
            reason = f"delivered {held.delivery.count} times without an answer: whoever works at it dies"
            return await self._give_up(held, event, reason)
        began = asyncio.get_running_loop().time()
        try:
            await self._answer(event, message)
        except Rejected as error:
            return await self._give_up(held, event, str(error))
        except Fenced:
            raise
        except Exception as error:
            raises = self._raises[message.subject] = self._raises.get(message.subject, 0) + 1
            if raises < subscription.max_raises:
                raise
            self._log.exception("handler.failed", subject=message.subject)
            return await self._give_up(held, event, f"raised {raises} times, last: {type(error).__name__}: {error}")
        self._raises.pop(message.subject, None)
        self._took_s.append(asyncio.get_running_loop().time() - began)
        chaos.point("told")
        await held.delivery.ack()
        self.done += 1
        await asyncio.sleep(0)  # the acknowledgement leaves the process before the next point
        chaos.point("acknowledged")
        return None

    async def _answer(self, event: Event, message: Message) -> None:
        teller = Teller(self._stream, self._letters)
        following = self._subscription.handler(event)
        if isinstance(following, AsyncIterator):
            async with aclosing(cast("Any", following)) as facts:
                async for fact in facts:
                    await teller.tell(fact, caused_by=message.subject)
        else:
            for fact in await cast("Awaitable[Sequence[Event] | None]", following) or ():
                await teller.tell(fact, caused_by=message.subject)

    async def _give_up(self, held: Held, event: Event, reason: str) -> None:
        """Tell what follows from giving up, and put the message aside."""
        teller = Teller(self._stream, self._letters)
        facts: Sequence[Event] = ()
        if self._subscription.give_up is not None:
            try:
                facts = self._subscription.give_up(event, reason)
            except Exception as error:
                self._log.exception("give-up.failed", subject=held.message.subject)
                reason = f"{reason}; and giving it up raised {type(error).__name__}: {error}"
        for fact in facts:
            await teller.tell(fact, caused_by=held.message.subject)
        await self._bury(held, reason)

    async def _bury(self, held: Held, reason: str) -> None:
        message = held.message
        self._log.warning("message.buried", subject=message.subject, reason=reason)
        headers = {**message.headers, REASON: " ".join(reason.split())}
        subject = f"dead.{self._subscription.name}.{message.subject}"
        await self._stream.bury(Letter(subject, headers, message.body))
        self._raises.pop(message.subject, None)
        await held.delivery.end()

    def _is_worn_out(self, held: Held) -> bool:
        return 0 < self._subscription.max_deliveries < held.delivery.count

    def _delay_s(self, subject: str) -> float:
        return min(5.0, self._retry_s * 2.0 ** (self._raises.get(subject, 1) - 1))


async def _end(tasks: Collection[asyncio.Task[None]], *, by: float) -> None:
    """Wait for them until then, and cancel what goes on: once, as who is handing back is not to be interrupted."""
    if tasks:
        await asyncio.wait(tasks, timeout=max(0.0, by - asyncio.get_running_loop().time()))
    for task in tasks:
        if not task.cancelling():
            task.cancel()


def _is_being_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
