"""Environments: an author's package, kept by the hub in immutable versions; what becomes of those, and what they were
used for. To publish, find and fetch them: `flash.contracts.requests`."""

import re
from typing import ClassVar

import msgspec

from flash.contracts.base import Done, Event, Request, Role, Token
from flash.contracts.requests import EnvironmentName, EnvironmentVersion

ENVIRONMENT_ID = re.compile(r"(?P<org>[A-Za-z0-9_-]+)/(?P<name>[a-z0-9][a-z0-9._-]*)(@(?P<version>[0-9a-f]+))?")


class EnvironmentEvent(Event, frozen=True, kw_only=True):
    """Something that has happened to a version."""

    address: ClassVar[tuple[str, ...]] = ("org", "slug", "version")

    org: Token
    slug: Token
    """The environment's name, fit for a subject: see `slug`."""
    environment: str
    version: Token
    """The first 12 hex digits of the digest."""
    digest: str


class EnvironmentPublished(EnvironmentEvent, frozen=True, kw_only=True):
    """A version of an environment can be fetched."""

    name: ClassVar[str] = "environment.published.v1"

    key: str
    packed_bytes: int


class EnvironmentWithdrawn(EnvironmentEvent, frozen=True, kw_only=True):
    """A version can be used no more, unless it is published again."""

    name: ClassVar[str] = "environment.withdrawn.v1"


class ArchiveLimits(msgspec.Struct, frozen=True, kw_only=True):
    """How large an environment may be; an operator may raise them."""

    packed_bytes: int = 64 << 20
    unpacked_bytes: int = 256 << 20
    members: int = 5_000


DEFAULT_LIMITS = ArchiveLimits()


class EnvironmentLimits(Request, frozen=True, kw_only=True):
    """How large may an environment be that is published here?"""

    name: ClassVar[str] = "environment.limits"
    service: ClassVar[str] = "hub"
    reply: ClassVar[type[msgspec.Struct]] = ArchiveLimits


class WantedParts(msgspec.Struct, frozen=True, kw_only=True):
    parts: list[int]
    """Those that are to be uploaded; none where the archive is known already."""


class EnvironmentOffer(Request, frozen=True, kw_only=True):
    """Which parts of this archive are still to be uploaded? Asked before the first, and after a break."""

    name: ClassVar[str] = "environment.offer"
    service: ClassVar[str] = "hub"
    reply: ClassVar[type[msgspec.Struct]] = WantedParts

    org: Token
    environment: EnvironmentName
    digest: str
    """sha256 of the archive, in hex."""
    num_bytes: int


class EnvironmentUse(msgspec.Struct, frozen=True, kw_only=True):
    """A run that used a version."""

    run_id: str
    state: str
    """live, done, failed, cancelled."""
    submitted_at: float
    """Seconds since the epoch."""
    checkpoints: list[int] = []
    """The steps that it saved, `RUN/step-N`."""


class EnvironmentStory(msgspec.Struct, frozen=True, kw_only=True):
    """Where a version stands, and what it was used for."""

    version: EnvironmentVersion
    is_newest: bool
    """A bare id means it."""
    uses: list[EnvironmentUse]
    """Newest first, at most 100."""
    num_uses: int


class EnvironmentShow(Request, frozen=True, kw_only=True):
    """What is this version, and what was it used for?"""

    name: ClassVar[str] = "environment.show"
    service: ClassVar[str] = "hub"
    reply: ClassVar[type[msgspec.Struct]] = EnvironmentStory
    role: ClassVar[Role] = "reader"

    reference: str
    """`org/name` or `org/name@version`."""

    def orgs(self) -> tuple[str, ...]:
        return (self.reference.partition("/")[0],)


class VersionsPage(msgspec.Struct, frozen=True, kw_only=True):
    versions: list[EnvironmentVersion]
    """Without their prompt texts; withdrawn ones too."""
    newest: str
    """The version that the bare id means."""


class EnvironmentVersions(Request, frozen=True, kw_only=True):
    """Every version of an environment, last published first."""

    name: ClassVar[str] = "environment.versions"
    service: ClassVar[str] = "hub"
    reply: ClassVar[type[msgspec.Struct]] = VersionsPage
    streams: ClassVar[bool] = True
    role: ClassVar[Role] = "reader"

    reference: str
    """`org/name`."""

    def orgs(self) -> tuple[str, ...]:
        return (self.reference.partition("/")[0],)


class EnvironmentRollback(Request, frozen=True, kw_only=True):
    """The bare id is to mean this version."""

    name: ClassVar[str] = "environment.rollback"
    service: ClassVar[str] = "hub"
    reply: ClassVar[type[msgspec.Struct]] = EnvironmentVersion

    org: Token
    environment: EnvironmentName
    version: str = ""
    """Empty: the one that it meant before."""


class EnvironmentWithdraw(Request, frozen=True, kw_only=True):
    """No run is to use this version from now on, and its archive is to go. Refused while a live run pins it."""

    name: ClassVar[str] = "environment.withdraw"
    service: ClassVar[str] = "hub"
    reply: ClassVar[type[msgspec.Struct]] = EnvironmentVersion

    org: Token
    environment: EnvironmentName
    version: str


class EnvironmentDelete(Request, frozen=True, kw_only=True):
    """Withdraw every version, and forget that there was such an environment. Refused while a live run pins one."""

    name: ClassVar[str] = "environment.delete"
    service: ClassVar[str] = "hub"
    reply: ClassVar[type[msgspec.Struct]] = Done

    org: Token
    environment: EnvironmentName


def slug(name: str) -> str:
    """An environment's name as one token: dots, which part a subject, are written `_2E` (names are lower case)."""
    return name.replace(".", "_2E")
