"""Who may ask what: the one place where a request's token is looked at, whichever service answers it.

A stack without an operator's token is open: whoever reaches its bus is its operator. Where there is one, who brings no
token is refused; the services bring it themselves when they ask each other. Any other token is the hub's to know.
"""

import hmac
import time
from collections.abc import Callable
from typing import get_args

from flash.bus import Bus
from flash.contracts.access import LOCAL, Caller, TokenCheck, digest_of
from flash.contracts.base import Request, Role
from flash.errors import NotFound, Refused

BELIEVED_S = 10.0
"""How long what the hub said of a token is believed: so long may a revoked one still be used."""
CHECK_S = 5.0
MOST_BELIEVED = 10_000

_RANK: dict[Role, int] = {role: rank for rank, role in enumerate(get_args(Role))}


def operator(token: str, operator_token: str) -> Caller | None:
    """The operator, if this is they. Raises Refused for no token where one is wanted."""
    if not (token or operator_token) or (token and hmac.compare_digest(token.encode(), operator_token.encode())):
        return Caller(org=LOCAL, role="operator")
    if not token:
        raise Refused("this stack wants a token: `flash login URL` asks for it, or put it into FLASH_TOKEN")
    return None


def require(caller: Caller, request: Request) -> None:
    """Raises Refused for a role that may not ask this, and NotFound for things of another organisation."""
    if caller.role == "operator":
        return
    if _RANK[caller.role] < _RANK[request.role]:
        helps = "an admin makes another with `flash token create`"
        raise Refused(
            f"{request.name} wants the role {request.role}, but this token of {caller.org} has {caller.role}: "
            + ("whoever runs the stack may" if request.role == "operator" else helps)
        )
    for org in request.orgs():
        if org != caller.org:
            raise NotFound(
                f"there is no {org!r} here that a token of {caller.org} can see: `flash whoami` says whose it is"
            )


class Access:
    """Lets requests in, or raises what the asker is told; see `flash.bus.Admit`."""

    def __init__(self, bus: Bus, operator_token: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._bus = bus
        self._operator_token = operator_token
        self._clock = clock
        self._believed: dict[str, tuple[Caller, float]] = {}

    async def admit(self, request: Request, token: str) -> None:
        if request.role != "anybody":
            require(operator(token, self._operator_token) or await self._holder(token), request)

    async def _holder(self, token: str) -> Caller:
        digest, now = digest_of(token), self._clock()
        caller, until = self._believed.pop(digest, (None, 0.0))
        if caller is None or until <= now:
            caller, until = await self._bus.ask(TokenCheck(token=token), CHECK_S), now + BELIEVED_S
        self._believed[digest] = caller, until
        while len(self._believed) > MOST_BELIEVED:
            self._believed.pop(next(iter(self._believed)))
        return caller
