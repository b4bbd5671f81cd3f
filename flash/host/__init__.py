"""Where authors' code runs: a child process per environment, a fresh fork per group, faults as data.

    ours ──socketpair──> zygote ──socketpair per fork──> fork        a frame: u32 little-endian length, then MessagePack
    `handle`, `link`     `child.zygote`                  `child.answering`, `envsdk.hosted`

A fork answers one question, or stays and plays the episodes of a group until they are scored: `episodes`.
The zygote has the environment imported and never scores; it enforces the deadline of each answer by SIGKILL, and `link`
enforces a later one that takes the zygote. What a fork leaves behind (processes, files, state) is gone before its group
counts as answered. `sandbox` puts up the walls around the zygote; what it shuts behind itself is `child.confinement`.
"""

from flash.host.child.frames import OUT_OF_REACH
from flash.host.episodes import Episodes, EpisodesLost
from flash.host.handle import Described, Host, HostSpec, Limits, LoadFailed, Page
from flash.host.installing import Allowance
from flash.host.requirements import InstallFailed, RequirementSets

__all__ = [
    "OUT_OF_REACH",
    "Allowance", "Described", "Episodes", "EpisodesLost", "Host", "HostSpec", "InstallFailed", "Limits", "LoadFailed",
    "Page", "RequirementSets",
]  # fmt: skip
