"""Organisations and their tokens: what a document holds, and what is asked of it."""

import hmac
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import structlog

from flash.access import operator
from flash.contracts.access import (
    LOCAL,
    Caller,
    NewToken,
    OrgCreate,
    TokenCheck,
    TokenCreate,
    TokenList,
    TokenListing,
    TokenRevoke,
    TokenState,
    digest_of,
    id_of,
    org_of,
)
from flash.contracts.base import Request
from flash.errors import NotFound, Refused
from flash.records import Records

RESERVED = {LOCAL: "that of the operator", "public": "everybody"}

log = structlog.get_logger()


class Kept(TokenState, frozen=True, kw_only=True):
    """A token as the records hold it."""

    digest: str


class Document(msgspec.Struct, frozen=True, kw_only=True):
    """What the records hold of one organisation."""

    created_at: float
    tokens: list[Kept] = []


class Organisations:
    """Asked twice, each request does what it does once."""

    def __init__(self, records: Records, operator_token: str, now: Callable[[], float]) -> None:
        self._records = records
        self._operator_token = operator_token
        self._now = now

    def answers(self) -> Mapping[type[Request], Callable[[Any], Any]]:
        return {
            TokenCheck: self.on_token_check,
            OrgCreate: self.on_org_create,
            TokenCreate: self.on_token_create,
            TokenList: self.on_token_list,
            TokenRevoke: self.on_token_revoke,
        }

    async def on_token_check(self, request: TokenCheck) -> Caller:
        return await self.check(request.token)

    async def check(self, token: str) -> Caller:
        """Whose token it is. Raises Refused where it is nobody's."""
        if caller := operator(token, self._operator_token):
            return caller
        org = org_of(token)
        kept = found(opened(await self._records.get(org)), id_of(token))
        if kept is None or not hmac.compare_digest(kept.digest, digest_of(token)):
            raise Refused(
                "this token is not known here, or was revoked: `flash login` takes another; FLASH_TOKEN wins over it"
            )
        return Caller(org=org, role=kept.role, token_id=kept.id, name=kept.name)

    async def on_org_create(self, request: OrgCreate) -> TokenState:
        if request.org in RESERVED:
            raise Refused(f"{request.org} means {RESERVED[request.org]}: choose another name")
        if request.token.role != "admin":
            raise Refused(f"the first token of an organisation is an admin's, but {request.token.role} was asked for")
        return await self._add(request.org, request.token, created)

    async def on_token_create(self, request: TokenCreate) -> TokenState:
        return await self._add(request.org, request.token, with_token)

    async def on_token_list(self, request: TokenList) -> TokenListing:
        document = self._existing(request.org, await self._records.get(request.org))
        return TokenListing(tokens=[shown(token) for token in document.tokens])

    async def on_token_revoke(self, request: TokenRevoke) -> TokenState:
        document = self._existing(request.org, await self._records.get(request.org))
        kept = found(document, request.id)
        if kept is None:
            raise NotFound(f"{request.org} has no token {request.id}: `flash token list` shows those there are")
        await self._records.update(request.org, lambda document: without_token(opened(document), kept))
        log.info("token.revoked", org=request.org, token_id=kept.id)
        return shown(kept)

    async def _add(
        self, org: str, token: NewToken, change: Callable[[Document | None, str, Kept], bytes]
    ) -> TokenState:
        kept = Kept(id=token.id, role=token.role, name=token.name, created_at=self._now(), digest=token.digest)
        document = await self._records.update(org, lambda document: change(opened(document), org, kept))
        log.info("token.created", org=org, token_id=token.id, role=token.role)
        there = found(opened(document), token.id)
        assert there
        return shown(there)

    def _existing(self, org: str, document: bytes | None) -> Document:
        if document is None and org != LOCAL:
            raise _no_such(org)
        return opened(document) or Document(created_at=0.0)


def created(document: Document | None, org: str, token: Kept) -> bytes:
    """An organisation with its first token. Raises Refused where there is one that began with another."""
    if document is None:
        return msgspec.json.encode(Document(created_at=token.created_at, tokens=[token]))
    first = document.tokens[0] if document.tokens else None
    if first is None or (first.id, first.digest) != (token.id, token.digest):
        raise Refused(f"there is an organisation {org} already: `flash token create --org {org}` makes another token")
    return msgspec.json.encode(document)


def with_token(document: Document | None, org: str, token: Kept) -> bytes:
    """Raises NotFound where there is no such organisation, and Refused where another token has the id."""
    if document is None and org != LOCAL:
        raise _no_such(org)
    document = document or Document(created_at=token.created_at)
    there = found(document, token.id)
    if there and there.digest != token.digest:
        raise Refused(f"{org} has another token {token.id}: choose another id")
    tokens = document.tokens if there else [*document.tokens, token]
    return msgspec.json.encode(msgspec.structs.replace(document, tokens=tokens))


def without_token(document: Document | None, token: Kept) -> bytes | None:
    if document is None:
        return None
    tokens = [one for one in document.tokens if one.id != token.id]
    return msgspec.json.encode(msgspec.structs.replace(document, tokens=tokens))


def opened(document: bytes | None) -> Document | None:
    return msgspec.json.decode(document, type=Document) if document else None


def found(document: Document | None, id: str) -> Kept | None:
    return next((token for token in document.tokens if token.id == id), None) if document else None


def shown(token: Kept) -> TokenState:
    return TokenState(id=token.id, role=token.role, name=token.name, created_at=token.created_at)


def _no_such(org: str) -> NotFound:
    return NotFound(f"there is no organisation {org}: `flash org create {org}` makes one")
