"""What a publish or a withdrawal does to an environment's documents. Pure.

Each version has a document of its own; the environment's says which of them a bare id means, now and before.
"""

from collections.abc import Sequence

import msgspec

from flash.contracts.environments import ENVIRONMENT_ID, slug
from flash.contracts.requests import EnvironmentVersion
from flash.errors import Refused

VERSION_DIGITS = 12
"""How many hex digits of an archive's digest name the version."""
REMEMBERED = 100
"""How many of the versions that a bare id meant before are known."""


class Reference(msgspec.Struct, frozen=True):
    """An environment, or one version of it."""

    org: str
    name: str
    version: str = ""

    @property
    def id(self) -> str:
        return f"{self.org}/{self.name}"


class Environment(msgspec.Struct, frozen=True, kw_only=True):
    """What the records hold of an environment beside its versions."""

    newest: EnvironmentVersion | None = None
    """What a bare id means; None: every version was withdrawn."""
    before: list[str] = []
    """The versions that it meant before, the last one at the end."""


def reference_of(text: str) -> Reference:
    """Raises Refused for what is no reference."""
    if not (found := ENVIRONMENT_ID.fullmatch(text)):
        raise Refused(f"{text[:200]!r} is no environment: an id is org/name or org/name@version")
    return Reference(found["org"], found["name"], found["version"] or "")


def version_of(digest: str) -> str:
    return digest[:VERSION_DIGITS]


def environment_id(org: str, name: str) -> str:
    """Where an environment's document lies in the records, and below that those of its versions."""
    return f"{org}.{slug(name)}"


def version_id(org: str, name: str, version: str) -> str:
    return f"{environment_id(org, name)}.{version}"


def kept(document: bytes | None, version: EnvironmentVersion) -> bytes:
    """A version's document after it was published. What is there already stays as it is, unless it was withdrawn; but
    where it could not be validated and now was, what was found stands instead.

    Raises Refused when another archive goes by the same version.
    """
    there = opened(document)
    if there and there.digest != version.digest:
        raise Refused(
            f"{version.id}@{version.version} is another archive with the same first {VERSION_DIGITS} digits: change "
            "any file, a blank line will do, and push again"
        )
    if there is None or there.withdrawn_at:
        return msgspec.json.encode(version)
    if there.notes and not version.notes:
        return msgspec.json.encode(msgspec.structs.replace(version, published_at=there.published_at))
    return msgspec.json.encode(there)


def withdrawn(document: bytes | None, at: float) -> bytes | None:
    """A version's document once it can be used no more; `at=0`: again."""
    there = opened(document)
    return msgspec.json.encode(msgspec.structs.replace(there, withdrawn_at=at)) if there else None


def pointed(document: bytes | None, version: EnvironmentVersion) -> bytes:
    """An environment's document when the bare id means this version."""
    there = environment(document)
    before = there.before
    if there.newest and there.newest.version != version.version:
        before = [*before, there.newest.version][-REMEMBERED:]
    return msgspec.json.encode(Environment(newest=brief(version), before=before))


def pointed_back(document: bytes | None, version: EnvironmentVersion | None) -> bytes:
    """The same when it means again what it meant before, or nothing any more."""
    there = environment(document)
    before = there.before
    if version and version.version in before:
        before = before[: len(before) - 1 - before[::-1].index(version.version)]
    return msgspec.json.encode(Environment(newest=version and brief(version), before=before))


def one_before(there: Environment, versions: Sequence[EnvironmentVersion]) -> EnvironmentVersion | None:
    """What the bare id meant before, of what can still be used; else the last published."""
    now = there.newest.version if there.newest else ""
    usable = {v.version: v for v in sorted(versions, key=_age) if not v.withdrawn_at and v.version != now}
    remembered = next((usable[version] for version in reversed(there.before) if version in usable), None)
    return remembered or next(reversed(usable.values()), None)


def in_order(versions: Sequence[EnvironmentVersion]) -> list[EnvironmentVersion]:
    """Last published first."""
    return sorted(versions, key=_age, reverse=True)


def brief(version: EnvironmentVersion) -> EnvironmentVersion:
    """As it stands in listings: without its prompt text, which may be long."""
    return msgspec.structs.replace(version, prompt_text="")


def opened(document: bytes | None) -> EnvironmentVersion | None:
    return msgspec.json.decode(document, type=EnvironmentVersion) if document else None


def environment(document: bytes | None) -> Environment:
    return msgspec.json.decode(document, type=Environment) if document else Environment()


def _age(version: EnvironmentVersion) -> tuple[float, str]:
    return version.published_at, version.version
