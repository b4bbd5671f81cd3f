"""Who asks: organisations, their tokens, and what the hub is asked about them.

A token reads `flash_<org>_<id>_<secret>`. Whoever makes it sends the hub its digest only: the hub never sees the secret
before it is used, and keeps nothing that could be used.
"""

import hashlib
import re
from typing import Annotated, ClassVar, Literal

import msgspec
from msgspec import Meta

from flash.contracts.base import Request, Role

LOCAL = "local"
"""The organisation of a stack without logins, and the operator's of any other."""

Org = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9-]*$", max_length=40)]
TokenId = Annotated[str, Meta(pattern=r"^[a-z0-9]{1,32}$")]
GivenRole = Literal["reader", "member", "admin"]
"""What a token may let its holder do: look; push and train; give tokens to others."""

_TOKEN = re.compile(r"flash_(?P<org>[a-z0-9][a-z0-9-]{0,39})_(?P<id>[a-z0-9]{1,32})_(?P<secret>[A-Za-z0-9_-]{32,128})")


def is_org(text: str) -> bool:
    return re.fullmatch(r"[a-z0-9][a-z0-9-]{0,39}", text) is not None


def is_token(text: str) -> bool:
    return _TOKEN.fullmatch(text) is not None


def org_of(token: str) -> str:
    """Whose requests a token makes, as it says itself; without one, those of the local organisation."""
    found = _TOKEN.fullmatch(token)
    return found["org"] if found else LOCAL


def id_of(token: str) -> str:
    found = _TOKEN.fullmatch(token)
    return found["id"] if found else ""


def may_operate(token: str) -> bool:
    """Whether it looks as if its holder ran the stack: by the operator's token, or, on an open one, by none."""
    return id_of(token) in ("", "operator")


def digest_of(token: str) -> str:
    """What is kept of a token. Its secret has the entropy of a key, so that one hash is enough."""
    return hashlib.sha256(token.encode()).hexdigest()


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    """On whose behalf something is asked."""

    org: Org
    role: Role
    token_id: str = ""
    """Empty for the operator's own token, and where none is wanted."""
    name: str = ""
    """What the token was called when it was made."""


class NewToken(msgspec.Struct, frozen=True, kw_only=True):
    """A token as the hub learns of it."""

    id: TokenId
    digest: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$")]
    """See `digest_of`."""
    role: GivenRole
    name: Annotated[str, Meta(max_length=64)] = ""


class TokenState(msgspec.Struct, frozen=True, kw_only=True):
    """A token as people see it."""

    id: str
    role: GivenRole
    name: str
    created_at: float
    """Seconds since the epoch."""


class TokenListing(msgspec.Struct, frozen=True, kw_only=True):
    tokens: list[TokenState]
    """In the order in which they were made."""


class TokenCheck(Request, frozen=True, kw_only=True):
    """Whose token is this? Asked by every service that is asked something with a token it does not know."""

    name: ClassVar[str] = "token.check"
    service: ClassVar[str] = "hub"
    reply: ClassVar[type[msgspec.Struct]] = Caller
    role: ClassVar[Role] = "anybody"

    token: str
    """Empty: who is it that brings none?"""


class OrgCreate(Request, frozen=True, kw_only=True):
    """There is to be such an organisation, with its first token. Asked twice, it is one."""

    name: ClassVar[str] = "org.create"
    service: ClassVar[str] = "hub"
    reply: ClassVar[type[msgspec.Struct]] = TokenState
    role: ClassVar[Role] = "operator"

    org: Org
    token: NewToken


class TokenCreate(Request, frozen=True, kw_only=True):
    """This token is the organisation's from now on. Asked twice, it is one."""

    name: ClassVar[str] = "token.create"
    service: ClassVar[str] = "hub"
    reply: ClassVar[type[msgspec.Struct]] = TokenState
    role: ClassVar[Role] = "admin"

    org: Org
    token: NewToken


class TokenList(Request, frozen=True, kw_only=True):
    """Which tokens has the organisation?"""

    name: ClassVar[str] = "token.list"
    service: ClassVar[str] = "hub"
    reply: ClassVar[type[msgspec.Struct]] = TokenListing
    role: ClassVar[Role] = "admin"

    org: Org


class TokenRevoke(Request, frozen=True, kw_only=True):
    """Nobody may use this token any more."""

    name: ClassVar[str] = "token.revoke"
    service: ClassVar[str] = "hub"
    reply: ClassVar[type[msgspec.Struct]] = TokenState
    role: ClassVar[Role] = "admin"

    org: Org
    id: TokenId
