"""What a scheduler is told."""

from pydantic import Field

from flash.config.settings import ServiceSettings


class Settings(ServiceSettings, frozen=True):
    """Settings of one scheduler."""

    eval_window: int = Field(32, ge=1)
    """How many groups of one evaluation are asked for at a time, so that it does not keep training runs waiting."""
    max_takeovers: int = Field(5, ge=1)
    """How many learners may take a run, one after the other, without finishing a step."""
    cached_chunks: int = Field(64, ge=1)
    """How many chunks of prepared datasets (1,024 rows each) stay in memory."""
