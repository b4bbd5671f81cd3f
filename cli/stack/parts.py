"""Which processes a stack consists of. Pure: options, ports and folders in, command lines and environments out."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from flash.models import pool_of
from flash.store.server import PORTS as STORE_PORTS
from flash.store.server import ServerPlan

PORTS = ("nats", *STORE_PORTS)

_DROPPED = ("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP")


@dataclass(frozen=True)
class Part:
    """One process: how to start it, and where it stands among the others."""

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    """On top of the supervisor's; passwords stand in it."""
    rank: int = 0
    """It starts once the needed parts of lower rank are ready."""
    needed: bool = False
    """Without it the stack is not up."""
    warms: bool = False
    """It may take minutes until it answers."""
    keeps: bool = False
    """Others cannot end in order without it, so it is stopped after them."""
    leaves: tuple[Path, ...] = ()
    """Files to remove when it has died."""


def nats_part(program: Path, config: Path) -> Part:
    return Part("nats", (str(program), "-c", str(config)), rank=0, needed=True, keeps=True)


def store_part(plan: ServerPlan) -> Part:
    return Part("store", plan.argv, plan.env, rank=0, needed=True, keeps=True, leaves=plan.sockets)


def service_parts(
    *,
    home: Path,
    nats_url_of: Callable[[str], str],
    store_url: str,
    models: Sequence[str],
    rollouts: int,
    scorers: int,
    learners: int,
    threads: str = "1",
) -> Iterator[Part]:
    """The services, in the order in which people read them.

    `nats_url_of`: where each comes onto the bus as itself; `threads`: of each model service's arithmetic.
    """
    told = {
        "FLASH_STORE_URL": store_url,
        "FLASH_HOME": str(home),
        "FLASH_GRACE_S": "3",  # less than we wait before we kill
        "PYTHONUNBUFFERED": "1",
    }
    arithmetic = {"OMP_NUM_THREADS": threads, "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}

    def light(service: str, name: str, *, needed: bool = False) -> Part:
        env = told | {"FLASH_NATS_URL": nats_url_of(service), "FLASH_REPLICA": name}
        return Part(name, _argv(service), env, rank=1, needed=needed)

    def heavy(service: str, name: str, model: str) -> Part:
        own = {"FLASH_NATS_URL": nats_url_of(service), "FLASH_REPLICA": name, "FLASH_MODEL": model}
        env = told | arithmetic | own
        return Part(name, _argv(service), env, rank=2, warms=True)

    yield light("hub", "hub", needed=True)
    yield light("scheduler", "scheduler", needed=True)
    yield light("recorder", "recorder")
    for number in range(1, scorers + 1):
        scorer = light("scorer", f"scorer-{number}")
        yield replace(scorer, env={**scorer.env, "FLASH_BUILD_SOURCES": "1"})  # whoever runs it is the author
    for pool, model in {pool_of(model): model for model in models}.items():
        for service, count in (("rollout", rollouts), ("learner", learners)):
            for number in range(1, count + 1):
                yield heavy(service, f"{service}-{pool}-{number}", model)


def environment(part: Part, base: Mapping[str, str]) -> dict[str, str]:
    """What the process of a part sees."""
    return clean(base) | dict(part.env)


def clean(base: Mapping[str, str]) -> dict[str, str]:
    """The environment without what could make a Python of ours import somebody else's modules."""
    return {name: value for name, value in base.items() if name not in _DROPPED}


def _argv(service: str) -> tuple[str, ...]:
    return (sys.executable, "-P", "-m", f"services.{service}")
