"""How facts travel, the same on both buses: headers, large bodies, and what a bus needs of a stream."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from flash.bus import Pool, Shared
from flash.contracts.base import Event
from flash.contracts.keys import blob_key
from flash.errors import BusError, Damaged
from flash.store import Store

MESSAGE_ID = "Nats-Msg-Id"
CAUSED_BY = "caused-by"
BLOB_KEY = "flash-blob-key"
BLOB_DIGEST = "flash-blob-digest"
REASON = "reason"

LARGEST_BODY_BYTES = 512 * 1024
"""A larger body lies in the store, and the message says where."""


class Moved(BusError):
    """The last sequence on a subject is another than the expected one; nothing was appended."""


@dataclass(frozen=True, slots=True)
class Letter:
    """A fact on its way into the stream."""

    subject: str
    headers: Mapping[str, str]
    body: bytes

    def is_told_by(self, message: "Message") -> bool:
        """Whether a message of the stream is this very fact, in the same words."""
        return (self.subject, self.body, self.headers.get(BLOB_DIGEST)) == (
            message.subject,
            message.body,
            message.headers.get(BLOB_DIGEST),
        )


@dataclass(frozen=True, slots=True)
class Message:
    """A fact as it lies in the stream, not yet decoded."""

    subject: str
    headers: Mapping[str, str]
    body: bytes
    sequence: int
    time: float
    """Seconds since the epoch."""
    pending: int = 0
    """How many matching messages wait behind it."""


class Delivery(Protocol):
    """A message that this replica holds. It stays ours, however long we work, until one of the methods is called."""

    @property
    def message(self) -> Message: ...

    @property
    def count(self) -> int:
        """How often it was delivered, this time included."""

    async def ack(self) -> None:
        """Done: nobody needs it again."""

    async def hand_back(self, after_s: float = 0.0) -> None:
        """Somebody is to try again."""

    async def end(self) -> None:
        """Nobody is to try again."""

    def let_go(self) -> None:
        """Say nothing more about it: somebody else may hold it by now."""


class Consumer(Protocol):
    """One shared subscription as one replica sees it."""

    async def next(self) -> Delivery:
        """One message for one free slot. No more are asked for than there are calls that wait."""

    async def stop(self) -> None:
        """Ask for nothing more, and hand back what arrives nevertheless."""


class Reading(Protocol):
    """Messages in order. No generator: those do not nest well when a loop ends and closes all of them at once."""

    def __aiter__(self) -> "Reading": ...

    async def __anext__(self) -> Message: ...

    async def aclose(self) -> None: ...


class Stream(Protocol):
    """What a bus needs of the place where facts are kept."""

    async def append(self, letter: Letter, *, expect: int, over: str) -> int:
        """The sequence of the letter in the stream. Tries until the stream has answered.

        Raises Moved unless the last message on the subjects `over` has sequence `expect` (0: there is none).
        """

    async def newest(self, pattern: str) -> Message | None:
        """The last message on these subjects, read where it is written."""

    async def last_sequence(self) -> int: ...

    def read(self, patterns: Sequence[str], after: int, *, follow: bool) -> "Reading":
        """Ordered and without gaps; with `follow` for ever, else up to what is there now."""

    async def purge(self, pattern: str, before: int) -> None:
        """Remove the messages on these subjects whose sequence is smaller."""

    async def bury(self, letter: Letter) -> None:
        """Keep a dead letter, under its own subject."""

    async def consume(self, subscription: Shared) -> Consumer: ...

    async def pools(self) -> list[Pool]: ...


class Letters:
    """Facts to letters and back. Large bodies go through the store."""

    def __init__(self, store: Store, *, largest_body_bytes: int = LARGEST_BODY_BYTES) -> None:
        self._store = store
        self._largest_body_bytes = largest_body_bytes

    async def write(self, event: Event, caused_by: str = "") -> Letter:
        body = event.encode()
        headers = {MESSAGE_ID: _message_id(event, body)}
        if caused_by:
            headers[CAUSED_BY] = caused_by
        if len(body) > self._largest_body_bytes:
            digest = hashlib.sha256(body).hexdigest()
            run_id = getattr(event, "run_id", None)
            key = blob_key(run_id, digest) if run_id else f"blobs/{digest}"
            await self._store.put(key, body)
            headers |= {BLOB_KEY: key, BLOB_DIGEST: digest}
            body = b""
        return Letter(event.subject, headers, body)

    async def body_of(self, message: Message) -> bytes:
        """Raises StoreError when a large body is not where the message says."""
        key = message.headers.get(BLOB_KEY)
        if key is None:
            return message.body
        body = await self._store.get(key)
        found, wanted = hashlib.sha256(body).hexdigest(), message.headers.get(BLOB_DIGEST)
        if found != wanted:
            raise Damaged(f"{key} has digest {found}, but {message.subject} was told with {wanted}")
        return body


def _message_id(event: Event, body: bytes) -> str:
    """What the server knows a quick retry by.

    The subject alone would do harm where a fact is fenced: the server would answer a zombie's other words on the same
    subject as a retry, and the zombie would believe that it had been heard.
    """
    if event.fence is None:
        return event.subject
    return f"{event.subject}/{hashlib.blake2b(body, digest_size=8).hexdigest()}"
