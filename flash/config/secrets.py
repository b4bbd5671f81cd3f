"""`environment.secrets`: which names it may have, and where their values are read when a run is submitted.

The first place that has a name gives its value: the process environment, `.env` and `.env.local` in the current folder,
then those beside the config.
"""

import io
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from flash.config.sentences import shown
from flash.errors import ConfigError
from flash.redaction import LEAST_CHARS, guard

FILES = (".env", ".env.local")

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_RESERVED = frozenset(
    ("FREESOLO_API_KEY", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "GITHUB_TOKEN", "RUN_ID", "HF_REPO", "WANDB_API_KEY")
)
_OURS = re.compile(r"(FLASH|FREESOLO)_.*|(LD|DYLD)_.*|PYTHON.*|PATH|HOME|TMPDIR|(HTTPS?|ALL|NO)_PROXY")
_LARGEST_BYTES = 64 << 10


@dataclass(frozen=True)
class Found:
    """Secrets of somebody who runs a command."""

    values: Mapping[str, str] = field(default_factory=dict, repr=False)
    places: Mapping[str, str] = field(default_factory=dict)
    """Where each was found, for people."""
    missing: Sequence[str] = ()
    unread: Sequence[str] = ()
    """Lines of the files that are no NAME=value."""

    @property
    def complaint(self) -> str:
        """A sentence on those that are set nowhere; empty where there are none."""
        if not self.missing:
            return ""
        unread = f" ({', '.join(self.unread)} cannot be read as NAME=value)" if self.unread else ""
        return (
            f"missing declared environment secret(s): {', '.join(self.missing)}: set them in your shell, or in .env or "
            f".env.local in this folder or beside the config{unread}"
        )

    @property
    def too_short(self) -> list[str]:
        """Those whose values cannot be masked, because they are too short to be told from other text."""
        return [name for name, value in self.values.items() if len(value) < LEAST_CHARS]

    def required(self) -> Mapping[str, str]:
        """All of them. Raises ConfigError naming those that are set nowhere."""
        if self.missing:
            raise ConfigError(self.complaint)
        return self.values


def complaints(names: Iterable[str]) -> Iterator[str]:
    """One sentence for each name that a secret cannot have."""
    for name in names:
        if not _NAME.fullmatch(name):
            yield (
                f"environment.secrets has {shown(name)}, but the name of an environment variable is wanted, for "
                'example "JUDGE_KEY"; its value is read from your shell or .env'
            )
        elif is_managed(name):
            yield (
                f"environment.secrets must not include platform-managed key(s): {name}: give the environment a "
                "variable of another name"
            )


def is_managed(name: str) -> bool:
    """It is the platform that gives this variable its value, or nobody."""
    return name.upper() in _RESERVED or bool(_OURS.fullmatch(name.upper()))


def find(
    names: Iterable[str],
    config: Path | None = None,
    *,
    environment: Mapping[str, str] | None = None,
    here: Path | None = None,
) -> Found:
    """The values of these names; an empty one counts as not set. They are masked in this process's log from now on.

    Raises ConfigError for a file that cannot be read, and for a value that no environment variable can have.
    """
    wanted = list(dict.fromkeys(names))
    shell = os.environ if environment is None else environment
    values = {name: shell[name] for name in wanted if shell.get(name)}
    places = dict.fromkeys(values, "the shell")
    unread: list[str] = []
    for file in _files(here or Path.cwd(), config) if len(values) < len(wanted) else ():
        told = _read(file, unread)
        for name in wanted:
            if name not in values and told.get(name):
                values[name], places[name] = told[name], str(file)
    for name, value in values.items():
        _require_sound(name, value, places[name])
    guard(values.values())
    return Found(values, places, [name for name in wanted if name not in values], unread)


def _files(here: Path, config: Path | None) -> Iterator[Path]:
    folders = [here] if config is None else [here, config.resolve().parent]
    for folder in dict.fromkeys(folder.resolve() for folder in folders):
        for name in FILES:
            if (file := folder / name).exists():
                yield file


def _read(file: Path, unread: list[str]) -> dict[str, str]:
    from dotenv.parser import parse_stream

    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{file} cannot be read: {getattr(error, 'strerror', None) or 'it is no UTF-8 text'}"
        ) from None
    found = {}
    for line in parse_stream(io.StringIO(text)):
        if line.error:
            unread.append(f"{file}, line {line.original.line}")
        elif line.key and line.value is not None:
            found[line.key] = line.value
    return found


def _require_sound(name: str, value: str, place: str) -> None:
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        raise ConfigError(f"the secret {name}, from {place}, is no UTF-8 text") from None
    if "\0" in value or size > _LARGEST_BYTES:
        found = "holds a NUL" if "\0" in value else f"has {size:,} bytes"
        raise ConfigError(
            f"the secret {name}, from {place}, {found}, but a text of at most {_LARGEST_BYTES:,} bytes is wanted"
        )
