"""What a learner is told."""

from typing import Literal

from pydantic import Field

from flash.config.settings import ServiceSettings


class Settings(ServiceSettings, frozen=True):
    """Settings of one learner."""

    model: str = "tiny"
    """The base model: a name of the catalogue, or a folder written as a path."""
    max_runs: int = Field(2, ge=1)
    """How many runs train at a time on the one loaded base; their steps alternate."""
    threads: int = Field(1, ge=1)
    """CPU threads of the arithmetic. Part of what makes an adapter what it is, bit for bit: a replay obeys it."""
    max_tokens_per_forward: int = Field(0, ge=0)
    """Tokens that pass through the model at once, padding counted; 0: as many as fit into `forward_bytes`. More is
    faster on small models and on GPUs. A single longer row goes alone."""
    forward_bytes: int = Field(512 * 1024 * 1024, ge=1024 * 1024)
    """Memory that one such pass and its gradient may take, by a rule of thumb."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto`: the first GPU if there is one."""
    share_gpu: bool = False
    """Give back, after each step, the memory of the GPU that only passes through the model want: rollouts share it."""
