"""Where an environment may connect to. Pure: names and addresses in, a decision out.

`environment.network` names `host` or `host:port`; the operator's `FLASH_EGRESS` bounds what that may mean:

    named     public addresses, and others where the very address (or `localhost`) is named with its port
    public    public addresses only
    none      nothing
"""

import ipaddress
import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Literal, cast

from flash.errors import ConfigError

VARIABLE = "FLASH_EGRESS"
Operator = Literal["named", "public", "none"]
Chooses = Callable[[str, int, Iterable[str]], str]
"""Of a host, a port and the host's addresses: the one to connect to. Raises Barred."""
WEB = (80, 443)
LOOPBACK = ("127.0.0.1", "localhost", "::1")

_NAME = re.compile(r"(?=.{1,253}$)[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*", re.IGNORECASE)


class Barred(Exception):
    """This is no place for the environment to go; the text says why."""


def operator(environment: Mapping[str, str] | None = None) -> Operator:
    """What this machine's operator allows. Raises ConfigError."""
    said = (os.environ if environment is None else environment).get(VARIABLE, "named")
    if said in ("named", "public", "none"):
        return cast("Operator", said)
    raise ConfigError(f"{VARIABLE} is {said!r}, but it is one of named, public, none")


def parsed(destination: str) -> tuple[str, int | None]:
    """Host and port; None: any port. Raises ValueError."""
    host, port = split(destination)
    host = host.lower().rstrip(".")
    if _as_address(host) is None and not _NAME.fullmatch(host):
        raise ValueError(f"{destination!r} is no host or host:port")
    if port is not None and not 0 < port < 65_536:
        raise ValueError(f"the port of {destination!r} is not between 1 and 65535")
    return host, port


def split(destination: str) -> tuple[str, int | None]:
    """Raises ValueError."""
    host, _, port = destination.rpartition(":")
    if destination.startswith("["):
        inside, _, rest = destination[1:].partition("]")
        host, port = inside, rest.removeprefix(":")
    elif not host or ":" in host:
        host, port = destination, ""
    if port and not port.isdecimal():
        raise ValueError(f"the port of {destination!r} is no number")
    return host, int(port) if port else None


def is_named(network: Iterable[str], host: str, port: int) -> bool:
    """`environment.network` has it."""
    return any(parsed(entry) in ((host, None), (host, port)) for entry in network)


def chosen(network: Sequence[str], host: str, port: int, addresses: Iterable[str], allows: Operator) -> str:
    """The one of the host's addresses to connect to: what is connected to is what was looked at. Raises Barred."""
    if not is_named(network, host, port):
        raise Barred(f"{host}:{port} is not in environment.network")
    if allows == "none":
        raise Barred(f"{host}:{port} is not allowed: {VARIABLE}=none")
    literal = _as_address(host) is not None or host == "localhost"
    trusted = allows == "named" and literal and (host, port) in map(parsed, network)
    for address in addresses:
        if is_public(address) or (trusted and not _never(address)):
            return address
    raise Barred(f"{host}:{port} is at no public address" + ("" if allows == "named" else f", and {VARIABLE}={allows}"))


def for_installing(named: Collection[tuple[str, int]], host: str, port: int, addresses: Iterable[str]) -> str:
    """As `chosen`, for an installer: an index that the operator has named, wherever that is, and what it links to in
    public."""
    for address in addresses:
        if not _never(address) if (host, port) in named else is_public(address) and port in WEB:
            return address
    raise Barred(f"{host}:{port} is neither a package index of the operator's nor on the public web")


def is_public(address: str) -> bool:
    found = _as_address(address)
    if found is None:
        return False
    found = getattr(found, "ipv4_mapped", None) or getattr(found, "sixtofour", None) or found
    return found.is_global and not found.is_multicast and not found.is_reserved


def _never(address: str) -> bool:
    """Where clouds keep their secrets, and what is no single place."""
    found = _as_address(address)
    return found is None or found.is_link_local or found.is_multicast or found.is_reserved or found.is_unspecified


def _as_address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
