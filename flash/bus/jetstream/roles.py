"""What each service may do on a NATS server, and by which password it comes in. Follows from the catalogue alone.

A service tells the facts that are its own, asks what it must, answers what it is asked, keeps its own records, and
hears its own inbox. It may read the stream, all of it as a server knows nothing between that and nothing, but not
change it.
"""

import hashlib
import hmac
import sys
from collections.abc import Iterator
from typing import Any

import msgspec

from flash.bus.jetstream.connection import own_inbox
from flash.bus.jetstream.logins import SUBJECT, issuer
from flash.bus.jetstream.stream import DEAD
from flash.contracts.base import STREAM, request_subject
from flash.contracts.catalogue import ASKS, EVENTS, FORGETS, KEEPER, RECORDS, REQUESTS, SERVICES

READS = (
    "STREAM.INFO.{}", "STREAM.MSG.GET.{}", "CONSUMER.CREATE.{}.*", "CONSUMER.INFO.{}.*", "CONSUMER.MSG.NEXT.{}.*",
    "CONSUMER.DELETE.{}.*",
)  # fmt: skip


def password(secret: str, service: str) -> str:
    """A service's own, from which neither the secret nor another's follows."""
    return hmac.new(secret.encode(), service.encode(), hashlib.sha256).hexdigest()


def authorization(secret: str, *others: dict[str, Any], seed: str = "") -> str:
    """The part of a server's configuration that says who comes in: every service, and `others`.

    With `seed`, everybody else brings a token, and the hub says what for: see `logins`.
    """
    users = [
        {"user": service, "password": password(secret, service), "permissions": permissions(service)}
        for service in SERVICES
    ]
    found: dict[str, Any] = {"timeout": 5, "users": [*users, *others]}
    if seed:
        found["auth_callout"] = {"issuer": issuer(seed), "auth_users": list(SERVICES)}
    return f"authorization: {msgspec.json.format(msgspec.json.encode(found)).decode()}\n"


def permissions(service: str) -> dict[str, Any]:
    """As the server's configuration wants them."""
    return {"publish": {"allow": list(_says(service))}, "subscribe": {"allow": list(_hears(service))}}


def _says(service: str) -> Iterator[str]:
    yield from (row.event.pattern() for row in EVENTS if service in row.said_by)
    yield from (f"dead.*.{row.event.pattern()}" for row in EVENTS if service in row.heard_by)
    yield from (request_subject(kind, "*" if kind.route else None) for kind in ASKS[service])
    yield "$SRV.STATS"
    yield "_INBOX.>"  # whoever asks is answered; where that is, nobody can guess
    yield from (f"$JS.ACK.{STREAM}.>", f"$JS.ACK.*.*.{STREAM}.>")
    buckets = RECORDS.get(service, ())
    yield from (f"$KV.{bucket}.>" for bucket in buckets)
    kept = [f"KV_{bucket}" for bucket in buckets]
    yield from (f"$JS.API.{verb.format(stream)}" for stream in (STREAM, *kept) for verb in READS)
    # To create a stream that is there changes nothing.
    yield from (f"$JS.API.STREAM.CREATE.{stream}" for stream in (STREAM, DEAD, *kept))
    yield from (f"$JS.API.STREAM.UPDATE.{stream}" for stream in kept)
    if service == KEEPER:
        yield from (f"$JS.API.STREAM.{verb}.{stream}" for verb in ("INFO", "UPDATE") for stream in (STREAM, DEAD))
    if service in FORGETS:
        yield f"$JS.API.STREAM.PURGE.{STREAM}"
    if service == "hub":
        yield "$SYS._INBOX.>"  # where the server waits for whose a token is


def _hears(service: str) -> Iterator[str]:
    yield f"{own_inbox(service)}.>"
    yield "$SRV.>"
    for kind in REQUESTS:
        if kind.service == service:
            yield request_subject(kind, "*" if kind.route else None)
    if service == "hub":
        yield SUBJECT


if __name__ == "__main__":
    told, with_seed = sys.stdin.read().split()
    if sys.argv[1:] == ["passwords"]:
        print(*(f"{service} {password(told, service)}" for service in SERVICES), sep="\n")
    else:
        print(authorization(told, seed=with_seed), end="")
