"""Environments: an author's package, kept by the hub in immutable versions."""

from typing import ClassVar

from flash.contracts.base import Event, Token


class EnvironmentPublished(Event, frozen=True, kw_only=True):
    """A version of an environment can be fetched."""

    name: ClassVar[str] = "environment.published.v1"
    address: ClassVar[tuple[str, ...]] = ("org", "slug", "version")

    org: Token
    slug: Token
    """The environment's name, fit for a subject: see `slug`."""
    environment: str
    version: Token
    """The first 12 hex digits of the digest."""
    digest: str
    key: str
    packed_bytes: int


def slug(name: str) -> str:
    """An environment's name as one token: dots, which part a subject, are written `_2E` (names are lower case)."""
    return name.replace(".", "_2E")
