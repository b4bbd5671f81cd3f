"""What a rollout service is told."""

from typing import Literal

from pydantic import Field

from flash.config.settings import ServiceSettings


class Settings(ServiceSettings, frozen=True):
    """Settings of one rollout service."""

    model: str = "tiny"
    """The base model: a name of the catalogue, or a folder written as a path."""
    slots: int = Field(16, ge=1)
    """How many groups are played at a time; the engine batches them."""
    engine: Literal["auto", "torch", "vllm"] = "auto"
    """`auto`: vLLM on a GPU, where it is installed; else torch."""
    threads: int = Field(1, ge=1)
    """CPU threads of the arithmetic."""
    step_timeout_s: float = Field(150.0, gt=0)
    """How long a scorer may take to open episodes, to step one or to score them: longer than its own deadlines."""
    episode_renew_s: float = Field(5.0, gt=0)
    """How often a scorer is told that its episodes are still being played, and how soon it is asked again what it has
    not answered; well below its lease."""
    max_rows: int = Field(64, ge=1)
    """How many rollouts the engine draws at a time."""
    cache_bytes: int = Field(512 << 20, ge=1)
    """How much memory the keys and values of all rollouts may take; those that came last wait for the others."""
    device: str = "auto"
    """`auto`: the GPU where there is one. Else what torch calls it: `cpu`, `cuda`, `cuda:1`."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """`auto`: float32 on the CPU, bfloat16 on a GPU."""
    adapters: int = Field(4, ge=1)
    """How many adapters vLLM puts into one batch: it keeps room in memory for as many of the largest rank."""
    tensor_parallel: int = Field(1, ge=1)
    """Over how many GPUs vLLM spreads the model."""
    sleep_after_s: float | None = Field(None, ge=0)
    """After how long without anything to draw the memory of the GPU is given back, for a learner that shares it. Unset:
    never."""
    adapter_cache_bytes: int = Field(2 << 30, ge=0)
    """How much of the disk adapters may take on this machine; those that were just asked for stay."""
