"""What a scorer is told."""

from pathlib import Path

from pydantic import Field

from flash.config.settings import ArchiveSettings, ServiceSettings


class Settings(ServiceSettings, ArchiveSettings, frozen=True):
    """Settings of one scorer."""

    key_file: Path | None = None
    """The private key that secrets are sealed to, the same for all scorers of a pool; None: `keys/scorer` in the home
    folder, made when it is not there."""
    slots: int = Field(8, ge=1)
    """How many groups are scored side by side."""
    score_timeout_s: float = Field(60.0, gt=0)
    """How long one `score_response` may take before its rollout counts as faulted; also one row to be rendered."""
    load_timeout_s: float = Field(120.0, gt=0)
    """How long an environment may take to load."""
    install_timeout_s: float = Field(600.0, gt=0)
    """How long the requirements of an environment may take to be installed."""
    build_sources: bool = False
    """Whether requirements that have no wheel are built from source: that runs their code, within walls."""
    install_disk_bytes: int = Field(16 << 30, gt=0)
    """How much the requirements of an environment may take on disk while they are installed, with what is built."""
    memory_bytes: int = Field(1 << 30, gt=0)
    """Address space that scoring a group may take beyond what the loaded environment has."""
    max_hosts: int = Field(8, ge=1)
    """How many loaded environments are kept; the one idle for longest goes first."""
    max_hosts_bytes: int = Field(8 << 30, gt=0)
    """How much memory all loaded environments may take together; the one idle for longest goes first."""
    host_bytes: int = Field(4 << 30, gt=0)
    """How much memory the processes of one loaded environment may take together, or those of an installer; who takes
    more is killed."""
    host_idle_s: float = Field(300.0, gt=0)
    """How long a loaded environment is kept with nothing to do."""
    max_episode_groups: int = Field(64, ge=1)
    """Groups whose episodes are open at a time; who asks for more is told to ask again."""
    episode_lease_s: float = Field(30.0, gt=0)
    """How long open episodes are kept when the rollout service that plays them is not heard of."""
    live_cache_s: float = Field(1.0, ge=0)
    """How long a run that was live is taken to be live still."""
