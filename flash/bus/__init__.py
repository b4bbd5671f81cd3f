"""The bus: tell a fact, hear facts, ask and answer. `memory` is one process, `jetstream` is NATS.

Facts are told at least once to whoever shares a subscription. What a handler returns is published before its message is
acknowledged; the stream refuses a second telling of a fact, so a handler that runs twice with the same replies does no
harm.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from flash.contracts.base import Event, Request
from flash.errors import BusError, Fenced, NobodyAnswers, Rejected
from flash.records import Records

__all__ = [
    "Admit", "Bus", "BusError", "Entry", "EveryReplica", "Fenced", "Handler", "NobodyAnswers", "Pool", "Rejected",
    "Replica", "Shared", "Told",
]  # fmt: skip


@dataclass(frozen=True)
class Told:
    """A fact as the stream holds it."""

    event: Event
    sequence: int
    """Its place in the one order of all facts."""
    time: float
    """When it was told, in seconds since the epoch."""
    caused_by: str
    """The subject of the fact that led to it; empty where a request or a person did."""
    pending: int = 0
    """How many facts of the same reading were waiting behind this one; 0: the reader has caught up."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A fact as it lies in the stream, word for word."""

    sequence: int
    time: float
    """When it was told, in seconds since the epoch."""
    subject: str
    message_id: str
    caused_by: str
    body: bytes
    """As its teller encoded it, wherever it was kept."""


Handler = Callable[[Any], Awaitable[Sequence[Event]]] | Callable[[Any], AsyncIterator[Event]]
"""Takes one fact, gives the facts that follow. One that lasts is an async generator: each fact it yields is published
and confirmed before it goes on; its message stays its own for as long as it runs."""


@dataclass(frozen=True)
class Shared:
    """One durable subscription: each fact goes to one replica, which acknowledges it.

    A replica never holds more facts than it has free slots. A handler that raises is tried again with delay, up to
    `max_raises` times; one that raises `Rejected` is not. Then, as after `max_deliveries` deliveries (replicas that
    died), `give_up` says what follows and the message is copied to the dead letters with the reason.
    """

    name: str
    """The durable consumer: replicas of one pool share it."""
    event: type[Event]
    handler: Handler
    where: Mapping[str, str] = field(default_factory=dict)
    """Address fields with fixed values, e.g. `{"pool": "tiny"}`."""
    slots: int = 1
    """How many messages a replica works at."""
    max_raises: int = 5
    max_deliveries: int = 20
    """0: as often as it takes."""
    give_up: Callable[[Any, str], Sequence[Event]] | None = None


@dataclass(frozen=True)
class EveryReplica:
    """Each replica hears every such fact, in order, from now on; without acknowledgement and without replies."""

    events: tuple[type[Event], ...]
    handler: Callable[[Any], Awaitable[None]]


@dataclass(frozen=True)
class Replica:
    """One process that answers requests."""

    service: str
    id: str
    started_at: float
    """Seconds since the epoch."""
    metadata: Mapping[str, str]
    done: int = 0
    """Facts of shared subscriptions that it has worked through: its share of the pool's work."""
    is_ready: bool = True
    """False: it has announced itself, and answers nothing yet."""


@dataclass(frozen=True)
class Pool:
    """A shared subscription as the server sees it."""

    name: str
    waiting: int
    """Facts that no replica has taken yet."""
    in_progress: int
    """Facts that a replica works at."""
    asking: int
    """Pull requests that wait for a fact; 0: nobody listens, or all are busy."""


Admit = Callable[[Request, str], Awaitable[None]]
"""Takes a request and the token that it came with, empty for none; raises what the asker is to be told instead of a
reply."""


class Bus(Protocol):
    """What every process has of the bus."""

    org: str
    """The organisation on whose behalf we ask: that of our token, and without one the local."""

    async def publish(self, *events: Event, caused_by: str = "") -> None:
        """Tell facts, in order; each is in the stream when this returns, by us or by whoever told it first.

        Raises Fenced when a fenced fact is refused because somebody else has spoken since: see `fenced`.
        """

    async def listen(self, *subscriptions: Shared | EveryReplica) -> None:
        """Begin to hear; returns once the subscriptions are in place. Handlers run until `close`."""

    def replay(self, *patterns: str, after: int | None = 0) -> AsyncIterator[Told]:
        """Every fact on these subjects after a place in the stream, in order, and then each new one as it is told.

        `after=None`: from now on. Never ends by itself; survives a restart of the server without loss or repetition.
        """

    def history(self, *patterns: str, after: int = 0) -> AsyncIterator[Told]:
        """The same, up to the present, and then it ends."""

    def entries(self, *patterns: str, after: int = 0) -> AsyncIterator[Entry]:
        """Like `replay`, but undecoded: the words themselves, those of a newer Flash too."""

    async def forget(self, *patterns: str, before: int) -> None:
        """Take facts on these subjects out of the stream, those at earlier places than `before`.

        From then on, but for quick retries, nothing refuses a second telling of them.
        """

    async def last(self, pattern: str) -> Told | None:
        """The newest fact on these subjects."""

    async def announce(self, service: str, **metadata: str) -> None:
        """Show that a replica of a service is on its way, until `answer`."""

    async def answer(
        self,
        service: str,
        answers: Mapping[type[Request], Callable[[Any], Any]],
        admit: Admit | None = None,
        **metadata: str,
    ) -> None:
        """Answer requests as one replica of a service, until `close`; those only that `admit` lets in.

        A value of `answers` is an async function from a request to its reply, or for a request that streams an async
        generator of replies. A FlashError it raises reaches the asker as an error of the same class and text; any other
        as BusError.
        """

    async def ask(self, request: Request, timeout_s: float = 10.0) -> Any:
        """The reply of one replica. Raises NobodyAnswers when none takes it, and what the replica raised."""

    def stream(self, request: Request, timeout_s: float = 60.0) -> AsyncIterator[Any]:
        """The replies of a request that streams; `timeout_s` bounds the wait for each."""

    async def replicas(self, wait_s: float = 0.3, *, announced: bool = False) -> list[Replica]:
        """Who answers requests just now; with `announced` also who will."""

    async def pools(self) -> list[Pool]:
        """The shared subscriptions and what waits in them."""

    def records(self, bucket: str) -> Records:
        """Small state with compare-and-set, shared by whoever opens the same bucket."""

    async def close(self, grace_s: float = 5.0) -> None:
        """Hand back what has not begun, let running handlers finish for `grace_s`, hand back the rest.

        What would not be done by then, going by how long the last facts took, is handed back at once.
        """
