"""Service settings: read from environment variables, `FLASH_` and the field's name in capitals.

What is secret may lie in a file instead, which `FLASH_..._FILE` names: a variable can be read by whoever may inspect
the process or its container.
"""

import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Self
from urllib.parse import unquote, urlsplit

from pydantic import BaseModel, Field, ValidationError

from flash.contracts.environments import DEFAULT_LIMITS, ArchiveLimits
from flash.errors import ConfigError


class EnvironSettings(BaseModel, frozen=True, extra="forbid"):
    """Settings that can be read from the environment."""

    @classmethod
    def from_env(cls, environment: Mapping[str, str] | None = None) -> Self:
        """Raises ConfigError naming the variable, what was found and what was wanted."""
        found = os.environ if environment is None else environment
        given = {
            field: value for field in cls.model_fields if (value := _given(found, f"FLASH_{field.upper()}")) is not None
        }
        try:
            return cls.model_validate(given)
        except ValidationError as error:
            first = error.errors()[0]
            field = str(first["loc"][0])
            found_there = repr(first["input"]) if cls.model_fields[field].repr else "not as it should be"
            raise ConfigError(f"FLASH_{field.upper()} is {found_there}: {first['msg']}") from None


class ArchiveSettings(EnvironSettings, frozen=True):
    """How large an environment may be: told to the hub and to the scorers alike."""

    max_packed_bytes: int = Field(DEFAULT_LIMITS.packed_bytes, ge=1)
    """Of its archive."""
    max_unpacked_bytes: int = Field(DEFAULT_LIMITS.unpacked_bytes, ge=1)
    """Of its files together."""
    max_members: int = Field(DEFAULT_LIMITS.members, ge=1)
    """How many files it may have."""

    @property
    def archive_limits(self) -> ArchiveLimits:
        return ArchiveLimits(
            packed_bytes=self.max_packed_bytes, unpacked_bytes=self.max_unpacked_bytes, members=self.max_members
        )


class ServiceSettings(EnvironSettings, frozen=True):
    """What every service is told."""

    nats_url: str = "nats://127.0.0.1:4222"
    """Where the bus is; user and password may stand in it."""
    store_url: str = "file:///tmp/flash-store"
    """Where objects lie: see `flash.store.open_store`."""
    operator_token: str = Field("", repr=False, pattern="^(flash_local_operator_[A-Za-z0-9_-]{32,128})?$")
    """Whoever brings it is the operator, and our services bring it; empty: everybody who reaches the bus is."""
    home: Path = Path.home() / ".flash"
    """The folder for models and caches of this machine."""
    replica: str = Field(default_factory=lambda: f"{socket.gethostname().split('.')[0]}-{os.getpid()}")
    """What this process is called in events, logs and `flash ps`."""
    log_level: str = "info"
    grace_s: float = Field(5.0, ge=0)
    """How long running handlers may finish after SIGTERM."""
    health_file: Path | None = None
    """Touched every second for as long as the service works and its bus answers; gone when it stops."""

    @property
    def credentials(self) -> list[str]:
        """What of these is masked in the log."""
        passwords = [urlsplit(url).password for url in (self.nats_url, self.store_url)]
        return [self.operator_token, *(unquote(password) for password in passwords if password)]


def _given(found: Mapping[str, str], name: str) -> str | None:
    file = found.get(f"{name}_FILE")
    if file is None:
        return found.get(name)
    if name in found:
        raise ConfigError(f"{name} and {name}_FILE are both set: keep one of them")
    try:
        return Path(file).read_text().strip()
    except OSError as error:
        raise ConfigError(f"{name}_FILE is {file!r}, which cannot be read: {error.strerror}") from error
