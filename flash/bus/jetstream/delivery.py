"""One message as a JetStream consumer delivers it."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

import msgspec
from nats.aio.msg import Msg

from flash.bus.jetstream.connection import Connection
from flash.bus.jetstream.keeper import Keeper
from flash.bus.wire import Message
from flash.errors import BusError


class Place(NamedTuple):
    """What the reply subject of a delivered message says about it."""

    consumer: str
    deliveries: int
    sequence: int
    """In the stream."""
    order: int
    """In this consumer, from 1."""
    time: float
    pending: int


def place(msg: Msg) -> Place:
    """`$JS.ACK.[domain.account.]stream.consumer.count.sequence.order.time.pending[.token]`"""
    tokens = msg.reply.split(".")
    first = 3 if len(tokens) < 11 else 5
    consumer, count, sequence, order, time, pending = tokens[first : first + 6]
    return Place(consumer, int(count), int(sequence), int(order), int(time) / 1e9, int(pending))


def message(msg: Msg, at: Place) -> Message:
    headers: Mapping[str, str] = msg.headers or {}
    return Message(msg.subject, headers, msg.data, at.sequence, at.time, at.pending)


@dataclass(eq=False)
class JetStreamDelivery:
    """Kept in progress from the moment it is made until it is settled."""

    message: Message
    count: int
    ack_subject: str
    connection: Connection
    keeper: Keeper

    async def ack(self) -> None:
        self.keeper.release(self.ack_subject)
        await self._say(b"+ACK")

    async def hand_back(self, after_s: float = 0.0) -> None:
        # Where somebody else may hold it by now, our word would take it from them.
        if self.keeper.release(self.ack_subject):
            delay = msgspec.json.encode({"delay": int(after_s * 1e9)})
            await self._say(b"-NAK " + delay if after_s > 0 else b"-NAK")

    async def end(self) -> None:
        self.keeper.release(self.ack_subject)
        await self._say(b"+TERM")

    def let_go(self) -> None:
        self.keeper.release(self.ack_subject)

    async def _say(self, word: bytes) -> None:
        with suppress(BusError):  # the server will find out by itself, and the message comes again
            await self.connection.send(self.ack_subject, word)
