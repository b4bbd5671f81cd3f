"""How a fact is declared, addressed and encoded.

A fact's subject is its identity: `flash.<noun>.<past-participle>.v<N>.<address...>`. The stream keeps one message a
subject, the first told, so telling a fact twice does no harm.
"""

from typing import Annotated, Any, ClassVar, Literal, Self

import msgspec
from msgspec import Meta

Token = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]+$", max_length=128)]
"""An id that may stand in a subject."""

Scope = Literal["train", "eval"]

Role = Literal["anybody", "reader", "member", "admin", "operator"]
"""Who somebody is to us; each may do what those before it may. The operator runs the stack; services ask as such."""

STREAM = "FLASH"
"""The one stream that holds every fact."""


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """Something that has happened."""

    name: ClassVar[str]
    """`<noun>.<past-participle>.v<N>`."""
    address: ClassVar[tuple[str, ...]]
    """The fields that follow the name in the subject, broad to narrow; together they make the fact one fact."""
    wire: ClassVar[Literal["json", "msgpack"]] = "json"
    fence: ClassVar[int | None] = None
    """How many leading address fields name what only one teller at a time may speak about; None: first told wins."""

    @property
    def subject(self) -> str:
        """Where the fact is told, and what it is called."""
        return ".".join(("flash", self.name, *(str(getattr(self, field)) for field in self.address)))

    @classmethod
    def pattern(cls, **known: object) -> str:
        """The subjects of this kind of fact whose address fields have the `known` values.

        Raises TypeError for a field that is not part of the address.
        """
        if unknown := known.keys() - set(cls.address):
            raise TypeError(f"{cls.__name__} is addressed by {cls.address}, not by {sorted(unknown)}")
        return ".".join(("flash", cls.name, *(str(known.get(field, "*")) for field in cls.address)))

    def fence_pattern(self) -> str:
        """The subjects that only one teller at a time may extend: every kind of this noun, about the same thing."""
        noun, version = self.name.split(".")[0], self.name.split(".")[-1]
        held = (str(getattr(self, field)) for field in self.address[: self.fence])
        return ".".join(("flash", noun, "*", version, *held, ">"))

    def encode(self) -> bytes:
        body: bytes = _ENCODERS[self.wire].encode(self)
        return body

    @classmethod
    def decode(cls, body: bytes) -> Self:
        """Raises msgspec.ValidationError or msgspec.DecodeError for a body that is not this fact."""
        decode: Any = msgspec.json.decode if cls.wire == "json" else msgspec.msgpack.decode
        event: Self = decode(body, type=cls)
        return event


class RunEvent(Event, frozen=True, kw_only=True):
    """Something that has happened in a run."""

    org: Token
    run_id: Token


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """A question to one replica of a service, answered with one `reply`, or with a stream of them."""

    name: ClassVar[str]
    """`<noun>.<verb>`."""
    service: ClassVar[str]
    """Who answers."""
    reply: ClassVar[type[msgspec.Struct]]
    streams: ClassVar[bool] = False
    route: ClassVar[str | None] = None
    """A field of the request that chooses among pools of the service, e.g. `pool`."""
    role: ClassVar[Role] = "member"
    """The least that somebody has to be in order to ask it."""

    def orgs(self) -> tuple[str, ...]:
        """The organisations whose things it is about: to all others it is as if nothing were there."""
        org = getattr(self, "org", None)
        return () if org is None else (org,)

    @property
    def subject(self) -> str:
        return request_subject(type(self), str(getattr(self, self.route)) if self.route else None)


def request_subject(kind: type[Request], route: str | None = None) -> str:
    """Where a request is asked: `ask.<service>.<noun>.<verb>[.<route>]`."""
    return ".".join(part for part in ("ask", kind.service, kind.name, route) if part)


_ENCODERS: dict[str, Any] = {"json": msgspec.json.Encoder(), "msgpack": msgspec.msgpack.Encoder()}


class Done(msgspec.Struct, frozen=True, kw_only=True):
    """It is done; there is nothing to add."""


class FilePart(msgspec.Struct, frozen=True, kw_only=True):
    """One part of a file, in order."""

    data: bytes
    """At most 512 KiB."""
