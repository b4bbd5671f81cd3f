"""Organisations and tokens. A token is made here: the hub is told its digest, and nobody can read it out again."""

import secrets

from flash.bus import Bus
from flash.client.asking import ask
from flash.contracts.access import (
    Caller,
    GivenRole,
    NewToken,
    OrgCreate,
    TokenCheck,
    TokenCreate,
    TokenList,
    TokenListing,
    TokenRevoke,
    TokenState,
    digest_of,
)


async def whose(bus: Bus, token: str) -> Caller:
    """On whose behalf somebody with this token asks. Raises Refused for one that is not known."""
    caller: Caller = await ask(bus, TokenCheck(token=token))
    return caller


async def create_org(bus: Bus, org: str) -> str:
    """The first token of a new organisation, an admin's. Raises Refused where there is one of that name."""
    text, token = minted(org, "admin", "first")
    await ask(bus, OrgCreate(org=org, token=token))
    return text


async def create_token(bus: Bus, role: GivenRole, name: str = "", *, org: str = "") -> str:
    """A token of our organisation, or, for the operator, of any."""
    text, token = minted(org or bus.org, role, name)
    await ask(bus, TokenCreate(org=org or bus.org, token=token))
    return text


async def tokens(bus: Bus, *, org: str = "") -> list[TokenState]:
    listing: TokenListing = await ask(bus, TokenList(org=org or bus.org))
    return listing.tokens


async def revoke_token(bus: Bus, id: str, *, org: str = "") -> TokenState:
    """Raises NotFound where there is no such token."""
    state: TokenState = await ask(bus, TokenRevoke(org=org or bus.org, id=id))
    return state


def minted(org: str, role: GivenRole, name: str = "") -> tuple[str, NewToken]:
    """A new token: its text, and what the hub is told of it."""
    id = secrets.token_hex(6)
    text = f"flash_{org}_{id}_{secrets.token_urlsafe(32)}"
    return text, NewToken(id=id, digest=digest_of(text), role=role, name=name)
