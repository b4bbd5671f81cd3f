"""What a recorder is told."""

from pydantic import Field

from flash.config.settings import ServiceSettings


class Settings(ServiceSettings, frozen=True):
    """Settings of one recorder."""

    page_events: int = Field(500, ge=1)
    """How many facts one answer holds at most."""
    page_bytes: int = Field(512 << 10, ge=1)
    """How large one answer grows, unless its only fact is larger."""
    max_wait_s: float = Field(30.0, gt=0)
    """How long an asker may be kept waiting for news."""
