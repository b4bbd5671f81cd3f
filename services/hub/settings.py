"""What a hub is told."""

from pydantic import Field

from flash.config.settings import ServiceSettings


class Settings(ServiceSettings, frozen=True):
    """Settings of one hub."""

    max_packed_bytes: int = Field(64 * 1024 * 1024, ge=1)
    """How large an archive may be."""
    check_timeout_s: float = Field(150.0, gt=0)
    """How long a scorer may take to load an environment and read its rows."""
