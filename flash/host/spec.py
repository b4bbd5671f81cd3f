"""What a host is asked to be, and what it says it is."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec

from flash.contracts.values import Fault
from flash.errors import EnvironmentFault
from flash.host.sandbox import Decision, Layers


class LoadFailed(EnvironmentFault):
    """The environment cannot be loaded."""

    def __init__(self, fault: Fault, missing: str = "") -> None:
        super().__init__(fault.message)
        self.fault = fault
        self.missing = missing
        """A module or environment variable that the package needs and this host does not have."""


@dataclass(frozen=True)
class Limits:
    """What the environment's forks may use."""

    slots: int = 4
    """Groups that are worked at side by side; never more than the environment's `max_score_concurrency`."""
    episodes: int = 64
    """Groups whose episodes are open side by side."""
    memory_bytes: int = 1 << 30
    """Address space of a fork beyond what the loaded environment has."""
    cpu_s: float = 120.0
    """CPU time for each answer."""
    open_files: int = 256
    file_bytes: int = 64 << 20
    host_bytes: int = 4 << 30
    """Memory that all of a host's processes may take together."""
    scratch_bytes: int = 256 << 20
    """How much its temporary files may take."""
    processes: int = 64
    """How many processes it may have beside its forks and the threads that the environment asks for."""


@dataclass(frozen=True)
class HostSpec:
    """An environment and how it is loaded."""

    folder: Path
    params: Mapping[str, Any] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    """Environment variables; there are no others but the usual, and its secrets."""
    secrets: Mapping[str, str] = field(default_factory=dict)
    """More of them, whose values are masked in whatever the host tells."""
    requirements: Path | None = None
    """The folder of its requirement set, on the path before what is installed beside Flash: a set adds to that, and of
    what both have its own is imported. msgspec and envsdk have been imported before either."""
    network: Sequence[str] = ()
    """`host` or `host:port`: the only places it may reach."""
    tell: Callable[[Decision], object] = lambda decision: None
    """Hears of each connection out of it."""
    limits: Limits = Limits()
    layers: Layers | None = None
    """None: what `FLASH_SANDBOX` says."""


class Described(msgspec.Struct, frozen=True, kw_only=True):
    """What a loaded environment says of itself."""

    name: str
    """Its class."""
    split: str
    """The split it was loaded for."""
    splits: list[str]
    prompt_text: str
    max_score_concurrency: int
    isolation: Literal["group", "call"]
    scores_groups: bool
    """It compares the answers of a group, so they are scored in one call and fail together."""
    multi_turn: bool = False
    """It is played in episodes."""
    slots: int
