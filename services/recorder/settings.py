"""What a recorder is told."""

from pathlib import Path

from pydantic import Field

from flash.config.settings import ServiceSettings


class Settings(ServiceSettings, frozen=True):
    """Settings of one recorder."""

    key_file: Path | None = None
    """The private key that W&B's keys are sealed to, the same for all recorders; None: `keys/recorder` in the home
    folder, made when it is not there."""
    wandb_url: str = "https://api.wandb.ai"
    """Where Weights & Biases is: a server of one's own, perhaps."""
    max_boards: int = Field(16, ge=1)
    """How many runs are shown on W&B at a time, by a process each; further ones wait."""
    board_begin_s: float = Field(90.0, gt=0)
    """How long W&B may take to begin a run before it is tried again."""
    board_wait_s: float = Field(3600.0, gt=0)
    """How long W&B may be out of reach after a run's end before what it lacks is given up."""
    page_events: int = Field(500, ge=1)
    """How many facts one answer holds at most."""
    page_bytes: int = Field(512 << 10, ge=1)
    """How large one answer grows, unless its only fact or rollout is larger."""
    max_wait_s: float = Field(30.0, gt=0)
    """How long an asker may be kept waiting for news."""
    segment_bytes: int = Field(16 << 20, ge=1)
    """How many bytes of facts are written together; four times as many may wait in memory."""
    segment_s: float = Field(300.0, gt=0)
    """How long a fact waits for others before it is written: a day of a slow run is few segments."""
    merged_bytes: int = Field(64 << 20, ge=1)
    """How large segments grow that are merged: those of one run, when there are many small ones."""
    settle_s: float = Field(60.0, ge=0)
    """How long after a run's end its record stays open for groups that were asked for and have not come."""
    keep_steps: int = Field(50, ge=0)
    """How many finished steps of a run keep their groups in the stream, however many checkpoints cover them."""
    cache_bytes: int = Field(4 << 30, ge=0)
    """How large the copies of segments on this machine may grow that are kept for the next question."""
    find_s: float = Field(20.0, gt=0)
    """How long a question about rollouts may take."""
    export_s: float = Field(600.0, gt=0)
    """How long an export may take until its first part."""
    find_memory_mib: int = Field(2048, ge=512)
    """How much address space the process has that works at questions; DuckDB itself gets an eighth, and a
    quarter for an export."""
