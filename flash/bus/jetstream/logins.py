"""Who may come onto the bus, and what for: the server asks us about everybody who brings a token (its auth callout).

The server is configured with the public half of a key (`issuer`), and takes what is signed with the other half. People
get no more than the subjects of the requests that their role may ask, and an inbox that nobody else reads: neither the
facts of any organisation, nor what others are answered.
"""

import base64
import binascii
import hashlib
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec
import structlog
from nacl.signing import SigningKey
from nats.aio.msg import Msg

from flash.bus.jetstream.connection import Connection, inbox_of
from flash.contracts.access import Caller
from flash.contracts.base import STREAM, request_subject
from flash.contracts.catalogue import REQUESTS
from flash.errors import FlashError

SUBJECT = "$SYS.REQ.USER.AUTH"
ACCOUNT = "$G"
"""The account that everything happens in: the server's default."""
LOOKING = ("$SRV.INFO", "$SRV.STATS")
"""What `flash ps` asks besides: which replicas there are."""
OPERATING = (f"$JS.API.CONSUMER.LIST.{STREAM}",)
"""And what waits: the operator alone, as the answer names whose runs are read."""

_ACCOUNT_KEY = bytes([0])
"""What stands before the public key of an account, as nkeys write it."""

Check = Callable[[str], Awaitable[Caller]]
"""Whose token is it? Raises a FlashError where it is nobody's."""

log = structlog.get_logger()


async def answer_logins(connection: Connection, seed: str, check: Check) -> None:
    """Answer the server, as one of those who do, until the connection is closed. `seed`: 64 hex digits."""
    key = SigningKey(bytes.fromhex(seed))

    async def on_login(msg: Msg) -> None:
        asked = _claims(msg.data)["nats"]
        token = asked["connect_opts"].get("auth_token", "")
        try:
            answer = {"jwt": _user(key, asked["user_nkey"], permissions(await check(token), token))}
        except FlashError as error:
            log.info("login.refused", reason=str(error), host=asked["client_info"].get("host"))
            answer = {"error": str(error)}
        said = {"aud": asked["server_id"]["id"], "sub": asked["user_nkey"]}
        await msg.respond(_signed(key, said, {**answer, "type": "authorization_response"}).encode())

    await connection.client.subscribe(SUBJECT, queue="logins", cb=on_login)
    await connection.round_trip(timeout_s=10.0)


def permissions(caller: Caller, token: str) -> Mapping[str, Any]:
    """What the holder of a token may send and hear.

    A request that their role may not ask is let through: the service refuses it in a sentence, where the server would
    leave them waiting. What services ask each other is the operator's.
    """
    is_operator = caller.role == "operator"
    kinds = [kind for kind in REQUESTS if is_operator or kind.role != "operator" or kind.service == "hub"]
    asks = sorted({request_subject(kind, "*" if kind.route else None) for kind in kinds})
    inbox = f"{inbox_of(token)}.>"
    return {
        "pub": {"allow": [*asks, *LOOKING, *(OPERATING if is_operator else ()), inbox]},
        "sub": {"allow": [inbox]},
    }


def issuer(seed: str) -> str:
    """How the server is told of the key: `auth_callout { issuer: ... }`."""
    public = _ACCOUNT_KEY + bytes(SigningKey(bytes.fromhex(seed)).verify_key)
    checked = public + binascii.crc_hqx(public, 0).to_bytes(2, "little")
    return base64.b32encode(checked).decode().rstrip("=")


def _user(key: SigningKey, user: str, permissions: Mapping[str, Any]) -> str:
    unlimited = {"subs": -1, "data": -1, "payload": -1}
    return _signed(key, {"aud": ACCOUNT, "sub": user}, {**permissions, **unlimited, "type": "user"})


def _signed(key: SigningKey, about: Mapping[str, str], nats: Mapping[str, Any]) -> str:
    """A JSON web token as NATS wants it."""
    claims = {**about, "iss": issuer(bytes(key).hex()), "iat": int(time.time()), "nats": {**nats, "version": 2}}
    claims["jti"] = hashlib.sha256(msgspec.json.encode(claims)).hexdigest()
    parts = ({"typ": "JWT", "alg": "ed25519-nkey"}, claims)
    text = ".".join(_base64(msgspec.json.encode(part)) for part in parts)
    return f"{text}.{_base64(key.sign(text.encode()).signature)}"


def _claims(token: bytes) -> dict[str, Any]:
    """What a token says. Who signed it is not looked at: on this subject only the server can speak."""
    body = token.split(b".")[1]
    claims: dict[str, Any] = msgspec.json.decode(base64.urlsafe_b64decode(body + b"=" * (-len(body) % 4)))
    return claims


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")
