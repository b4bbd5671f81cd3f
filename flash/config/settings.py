"""Service settings: read from environment variables, `FLASH_` and the field's name in capitals."""

import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from pydantic import BaseModel, Field, ValidationError

from flash.errors import ConfigError


class ServiceSettings(BaseModel, frozen=True, extra="forbid"):
    """What every service is told."""

    nats_url: str = "nats://127.0.0.1:4222"
    """Where the bus is; user and password may stand in it."""
    store_url: str = "file:///tmp/flash-store"
    """Where objects lie: see `flash.store.open_store`."""
    home: Path = Path.home() / ".flash"
    """The folder for models and caches of this machine."""
    replica: str = Field(default_factory=lambda: f"{socket.gethostname().split('.')[0]}-{os.getpid()}")
    """What this process is called in events, logs and `flash ps`."""
    log_level: str = "info"
    grace_s: float = Field(5.0, ge=0)
    """How long running handlers may finish after SIGTERM."""

    @classmethod
    def from_env(cls, environment: Mapping[str, str] | None = None) -> Self:
        """Raises ConfigError naming the variable, what was found and what was wanted."""
        found = os.environ if environment is None else environment
        given = {
            field: found[f"FLASH_{field.upper()}"] for field in cls.model_fields if f"FLASH_{field.upper()}" in found
        }
        try:
            return cls.model_validate(given)
        except ValidationError as error:
            first = error.errors()[0]
            raise ConfigError(f"FLASH_{str(first['loc'][0]).upper()} is {first['input']!r}: {first['msg']}") from error
