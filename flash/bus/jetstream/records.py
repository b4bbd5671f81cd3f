"""Records in a JetStream key-value bucket, each change with compare-and-set."""

import asyncio
import random
import re
from collections.abc import Callable, Mapping
from contextlib import aclosing
from uuid import uuid4

from flash.bus.jetstream.stream import JetStream
from flash.bus.wire import MESSAGE_ID, Letter, Message, Moved
from flash.errors import BusError
from flash.records import TooBusy

OPERATION = "KV-Operation"
DELETED = "DEL"
TRIES = 50
DUPLICATE_WINDOW_S = 120.0

_ID = re.compile(r"[-/_=a-zA-Z0-9]+(\.[-/_=a-zA-Z0-9]+)*")


class JetStreamRecords:
    """`Records` in the bucket's stream, as `nats kv` reads it too."""

    def __init__(self, stream: JetStream, bucket: str) -> None:
        self._stream = stream
        self._prefix = f"$KV.{bucket}."
        self._is_there = False

    async def update(self, id: str, fn: Callable[[bytes | None], bytes | None]) -> bytes | None:
        """Raises TooBusy when others were faster every time."""
        await self._ensure()
        subject = self._subject(id)
        for tries in range(TRIES):
            newest = await self._stream.newest(subject)
            found = _document(newest)
            wanted = fn(found)
            if wanted == found:
                return found
            headers = {MESSAGE_ID: uuid4().hex}
            if wanted is None:
                headers[OPERATION] = DELETED
            letter = Letter(subject, headers, wanted or b"")
            try:
                await self._stream.append(letter, expect=newest.sequence if newest else 0, over=subject)
            except Moved:
                if await self._is_ours(letter):
                    return wanted
                await asyncio.sleep(random.uniform(0, 0.002 * (tries + 1)))
            else:
                return wanted
        raise TooBusy(f"{id} was changed by others {TRIES} times while we tried to: try again")

    async def get(self, id: str) -> bytes | None:
        await self._ensure()
        return _document(await self._stream.newest(self._subject(id)))

    async def all(self, under: str = "") -> Mapping[str, bytes]:
        await self._ensure()
        documents: dict[str, bytes] = {}
        wanted = f"{self._subject(under)}.>" if under else f"{self._prefix}>"
        async with aclosing(self._stream.read([wanted], 0, follow=False)) as messages:
            async for message in messages:
                document = _document(message)
                if document is not None:
                    documents[message.subject.removeprefix(self._prefix)] = document
        return documents

    async def _is_ours(self, letter: Letter) -> bool:
        """Whether what refuses us is our own change, whose answer was lost."""
        newest = await self._stream.newest(letter.subject)
        return newest is not None and newest.headers.get(MESSAGE_ID) == letter.headers[MESSAGE_ID]

    async def _ensure(self) -> None:
        if not self._is_there:
            await self._stream.ensure(
                [f"{self._prefix}>"],
                duplicate_window_s=DUPLICATE_WINDOW_S,
                max_msgs_per_subject=1,
                allow_rollup_hdrs=True,
                deny_delete=True,
                discard="new",
            )
            self._is_there = True

    def _subject(self, id: str) -> str:
        if not _ID.fullmatch(id):
            raise BusError(f"{id!r} cannot name a record: letters, digits and - / _ = make an id, parted by dots")
        return f"{self._prefix}{id}"


def _document(message: Message | None) -> bytes | None:
    return None if message is None or OPERATION in message.headers else message.body
