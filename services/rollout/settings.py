"""What a rollout service is told."""

from pydantic import Field

from flash.config.settings import ServiceSettings


class Settings(ServiceSettings, frozen=True):
    """Settings of one rollout service."""

    model: str = "tiny"
    """The base model: a name of the catalogue, or a folder written as a path."""
    slots: int = Field(16, ge=1)
    """How many groups are played at a time; the engine batches them."""
    threads: int = Field(1, ge=1)
    """CPU threads of the arithmetic."""
    max_rows: int = Field(64, ge=1)
    """How many rollouts the engine draws at a time."""
    adapter_cache_bytes: int = Field(2 << 30, ge=0)
    """How much of the disk adapters may take on this machine; the one in use stays."""
