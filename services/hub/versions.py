"""What a publish does to an environment's document, and which version a reference means. Pure."""

import difflib
from collections.abc import Iterable

import msgspec

from flash.contracts.environments import slug
from flash.contracts.requests import EnvironmentVersion
from flash.errors import NotFound, Refused

VERSION_DIGITS = 12
"""How many hex digits of an archive's digest name the version."""


class Document(msgspec.Struct, frozen=True, kw_only=True):
    """What the records hold of one environment."""

    versions: list[EnvironmentVersion] = []
    """In the order of their first publishing."""
    newest: str = ""
    """The version that a bare id means: the last published."""


def version_of(digest: str) -> str:
    return digest[:VERSION_DIGITS]


def record_id(org: str, name: str) -> str:
    """Where an environment's document lies in the records."""
    return f"{org}/{slug(name)}"


def published(document: bytes | None, version: EnvironmentVersion) -> bytes:
    """The document after a version was published. What is there already stays as it is, and becomes the newest again;
    but where it could not be validated and now was, what was found stands instead.

    Raises Refused when another archive goes by the same version.
    """
    before = opened(document)
    there = _known(before, version.version)
    if there and there.digest != version.digest:
        raise Refused(
            f"{version.id}@{version.version} is another archive with the same first {VERSION_DIGITS} digits: change "
            "any file, a blank line will do, and push again"
        )
    versions = before.versions if there else [*before.versions, version]
    if there and there.notes and not version.notes:
        versions = [version if one is there else one for one in versions]
    return msgspec.json.encode(Document(versions=versions, newest=version.version))


def known(document: bytes | None, digest: str) -> EnvironmentVersion | None:
    """The version with this content, where there is one."""
    found = _known(opened(document), version_of(digest))
    return found if found and found.digest == digest else None


def chosen(document: bytes | None, reference: str, others: Iterable[str] = ()) -> EnvironmentVersion:
    """The version that `org/name` or `org/name@version` means. `others` are the ids there are.

    Raises NotFound, with the nearest id, or the versions there are.
    """
    name, _, wanted = reference.partition("@")
    environment = opened(document)
    if not environment.versions:
        near = difflib.get_close_matches(name, list(others), n=1)
        meant = f"did you mean {near[0]}?" if near else f"`flash env push --name {name.rpartition('/')[2]}` makes one"
        raise NotFound(f"there is no environment {name}: {meant}")
    found = _known(environment, wanted or environment.newest)
    if found is None:
        there = ", ".join(version.version for version in reversed(environment.versions[-5:]))
        raise NotFound(f"{name} has no version {wanted}; the newest are {there}")
    return found


def newest(documents: Iterable[bytes]) -> list[EnvironmentVersion]:
    """The version that each environment's bare id means."""
    opened_documents = map(opened, documents)
    return [v for document in opened_documents for v in document.versions if v.version == document.newest]


def opened(document: bytes | None) -> Document:
    return msgspec.json.decode(document, type=Document) if document else Document()


def _known(document: Document, version: str) -> EnvironmentVersion | None:
    return next((there for there in document.versions if there.version == version), None)
