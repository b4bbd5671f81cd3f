"""A project on disk: which files a template has, and laying them down beside what is already there."""

import re
from collections.abc import Collection, Iterator
from pathlib import Path

from flash.errors import ConfigError, NotFound

TEMPLATES = {
    "starter": "two rows to be replaced by yours, and a reward for the exact answer",
    "larger": "smollm2-135m learns which of two numbers is larger: minutes on a laptop",
    "sort": "tiny learns to sort a few digits: a minute or two on a laptop, nothing to download",
    "arithmetic": "sums in the verifiers dialect, several weighted rewards",
    "reversal": "words in reverse order: an XML parser, a continuous reward",
    "guess": "a number from `higher` and `lower`, in several turns",
    "math": "fractions in a box, compared as mathematics by math-verify",
    "gym": "a task of the package reasoning-gym, which `[environment] pip` names",
    "tools": "Python functions as tools, which know what the policy cannot",
    "toolcalls": "conversations with calls of tools, taught by SFT",
    "judge": "another model grades the answers, behind checks that need none",
}
"""The first three lie here; the others are the examples."""

FASTEST = "sort"
"""Learns within a minute or two on a laptop, with nothing to download."""

STARTER = "starter"

SHAPES = ("reasoning", "multi-turn")
"""What the starter may be besides; each lies over it, the later over the earlier."""

_PLACE = Path(__file__).parent / "templates"
_EXAMPLES = (Path(__file__).parent / "examples", Path(__file__).parents[1] / "examples")
"""In an installed Flash, and in its repository."""
_SHARED = "TRAINING.md"
"""The playbook, the same for every template."""

_EMPTY_ID = re.compile(r'^(\s*id\s*=\s*)""', re.MULTILINE)


def files(template: str, shapes: Collection[str] = ()) -> Iterator[tuple[str, Path]]:
    """Each file of a template: where it goes, and where it lies. `shapes`: those of `SHAPES` that the starter has.

    Raises NotFound naming the templates there are, and ConfigError for another template that is to be shaped.
    """
    if template not in TEMPLATES:
        raise NotFound(f"there is no template {template!r}; there are {', '.join(TEMPLATES)}")
    if shapes and template != STARTER:
        raise ConfigError(f"--{' and --'.join(shapes)} shape the starter, but {template} has its own: leave out one")
    folders = [next(place / template for place in (_PLACE, *_EXAMPLES) if (place / template).is_dir())]
    folders += [_PLACE / f"{template}-{shape}" for shape in SHAPES if shape in shapes]
    found = {name: path for folder in folders for name, path in _within(folder)}
    yield from found.items()
    yield _SHARED, _PLACE / _SHARED


def _within(folder: Path) -> Iterator[tuple[str, Path]]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            yield path.relative_to(folder).as_posix(), path


def lay_down(template: str, folder: Path, shapes: Collection[str] = ()) -> Iterator[str]:
    """Write what is not there yet; gives the name of each file of the template."""
    for name, source in files(template, shapes):
        place = folder / name
        if not place.exists():
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(source.read_bytes())
        yield name


def configs_without_id(folder: Path) -> list[Path]:
    """The configs of a project that wait for the id of its environment."""
    return [path for path in sorted((folder / "configs").glob("*.toml")) if with_id(path.read_text(), "x") is not None]


def with_id(config: str, environment: str) -> str | None:
    """The config with the environment's id in its empty place; None where there is no such place."""
    head, table, rest = config.partition("[environment]")
    body, following, tail = rest.partition("\n[")
    if not table or not _EMPTY_ID.search(body):
        return None
    return head + table + _EMPTY_ID.sub(rf'\g<1>"{environment}"', body, count=1) + following + tail


def fill_in(path: Path, environment: str) -> None:
    """Write the id into a config. Raises ConfigError when somebody else has written one since."""
    text = with_id(path.read_text(), environment)
    if text is None:
        raise ConfigError(f"{path} has an environment id already")
    path.write_text(text)
