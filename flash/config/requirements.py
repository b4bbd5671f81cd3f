"""Requirement strings of `[environment] pip`: what is taken, each in one normal form. Pure.

Names, versions, extras and markers, as in PEP 508. What an installer would read as an option, a path or a URL is
refused: it could run code as it is installed, or carry a credential into specs and logs.
"""

import re
from collections.abc import Iterable
from importlib.metadata import version

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from flash.errors import ConfigError

PLATFORM = ("msgspec",)
"""What the host itself has imported before it imports an author's code: there is one version of it, ours."""

_CREDENTIALS = re.compile(r"(?<=://)[^/@\s]+@")


def normal_form(requirements: Iterable[str]) -> list[str]:
    """The requirements sorted, each once, written in one way. Raises ConfigError with a sentence for each bad one."""
    found: set[str] = set()
    complaints: list[str] = []
    for text in requirements:
        try:
            found.add(_normal(text))
        except ConfigError as error:
            complaints.append(str(error))
    if complaints:
        raise ConfigError("\n".join(complaints))
    return sorted(found)


def constraints() -> list[str]:
    """The platform's own versions, which hold in every set."""
    return [f"{name}=={version(name)}" for name in PLATFORM]


def without_credentials(text: str) -> str:
    """The text, URLs in it without their user and password."""
    return _CREDENTIALS.sub("", text)


def _normal(text: str) -> str:
    told = f"environment.pip names {without_credentials(text)!r}"
    wanted = 'wanted is a name, with versions if need be, for example "nltk>=3.9"'
    if text.lstrip().startswith("-"):
        raise ConfigError(f"{told}, which is an option of the installer, but {wanted}: indexes are the operator's")
    if _is_place(text):
        raise ConfigError(
            f"{told}, which is a place, but {wanted}: publish it to a package index, or put its files into the "
            "environment's folder"
        )
    try:
        requirement = Requirement(text)
    except InvalidRequirement as error:
        raise ConfigError(f"{told}, but {wanted}: {str(error).splitlines()[0]}") from error
    requirement.name = canonicalize_name(requirement.name)
    if requirement.name in PLATFORM and not requirement.specifier.contains(version(requirement.name), prereleases=True):
        raise ConfigError(
            f"{told}, but the platform's own {requirement.name} is {version(requirement.name)} and stays: leave it out"
        )
    return str(requirement)


def _is_place(text: str) -> bool:
    place = text.partition(";")[0].strip()
    return any(mark in place for mark in "/\\@") or place.endswith((".whl", ".tar.gz", ".txt", ".toml"))
