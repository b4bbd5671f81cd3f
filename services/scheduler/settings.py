"""What a scheduler is told."""

from pydantic import Field

from flash.config.settings import ServiceSettings
from flash.contracts.keys import run_prefix
from flash.contracts.spec import PlatformSpec, RunSpec

_DEFAULT = PlatformSpec()


class Settings(ServiceSettings, frozen=True):
    """Settings of one scheduler."""

    eval_window: int = Field(32, ge=1)
    """How many groups of one evaluation are asked for at a time, so that it does not keep training runs waiting."""
    cached_chunks: int = Field(64, ge=1)
    """How many chunks of prepared datasets (1,024 rows each) stay in memory."""
    max_org_runs: int = Field(8, ge=1)
    """How many training runs of one organisation go on at a time; the others wait in a queue."""
    min_free_bytes: int = Field(512 * 1024 * 1024, ge=0)
    """Below so much free space on the disk of `home` no run is begun; 0 where the stack's data lies elsewhere."""
    look_s: float = Field(5.0, gt=0)
    """How often it is looked who serves what, how much room the disk has, and whose time is up."""
    max_retries: int = Field(_DEFAULT.retries, ge=1)
    """How many learners may take a run, one after the other, without finishing a step."""
    max_wall_s: float = Field(_DEFAULT.wall_clock_s, gt=0)
    """How long an attempt at a run may take; its checkpoints are kept."""
    warn_flat_steps: int = Field(_DEFAULT.warn_flat_steps, ge=1)
    """After so many steps in a row in which no group had anything to learn from, a person is warned."""
    stop_flat_steps: int = Field(_DEFAULT.stop_flat_steps, ge=1)
    """After so many, and `stop_flat_rollouts`, the run fails."""
    stop_flat_rollouts: int = Field(_DEFAULT.stop_flat_rollouts, ge=1)

    def platform(self, spec: RunSpec) -> PlatformSpec:
        """What a run's spec says of these."""
        return PlatformSpec(
            resources=spec.pool, storage=run_prefix(spec.run_id), retries=self.max_retries,
            wall_clock_s=self.max_wall_s, warn_flat_steps=self.warn_flat_steps, stop_flat_steps=self.stop_flat_steps,
            stop_flat_rollouts=self.stop_flat_rollouts,
        )  # fmt: skip
