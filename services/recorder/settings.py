"""What a recorder is told."""

from pydantic import Field

from flash.config.settings import ServiceSettings


class Settings(ServiceSettings, frozen=True):
    """Settings of one recorder."""

    page_events: int = Field(500, ge=1)
    """How many facts one answer holds at most."""
    max_wait_s: float = Field(30.0, gt=0)
    """How long an asker may be kept waiting for news."""
