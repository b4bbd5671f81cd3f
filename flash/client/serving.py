"""What serves which base model. A run that nothing could serve is refused before it is submitted."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from flash.bus import Bus
from flash.client.asking import Say, silence
from flash.contracts.spec import RunSpec
from flash.errors import ConfigError, NotFound
from flash.models import Serving, nearest

PATIENCE_S = 5.0
"""How long a pool may be away."""
START_S = 600.0
"""How long one that is known to start may take: its model may have to be loaded from a slow disk."""
PAUSE_S = 0.5


@dataclass(frozen=True)
class Member:
    """One replica of a pool."""

    service: str
    replica: str
    serving: Serving


async def pools(bus: Bus) -> list[Member]:
    """Every replica that serves a model, by model and service."""
    found = [
        Member(replica.service, replica.id, serving)
        for replica in await bus.replicas()
        if (serving := Serving.of(replica.metadata))
    ]
    return sorted(found, key=lambda one: (one.serving.model, one.service, one.replica))


async def require_pool(
    bus: Bus,
    spec: RunSpec,
    *,
    is_starting: Callable[[Sequence[str]], bool] = lambda services: False,
    say: Say = silence,
) -> None:
    """Nothing, where replicas of each service that the run needs serve its model, and can do what it asks for.

    One that starts again is waited for, and longer where `is_starting` says so of the services that are away, or they
    have announced themselves. Raises NotFound, saying how to start one, and ConfigError.
    """
    clock = asyncio.get_running_loop().time
    began, has_said = clock(), False
    while absent := absent_services(spec, members := await pools(bus)):
        starting = is_starting(absent) or await _are_announced(bus, spec, absent)
        if clock() - began >= (START_S if starting else PATIENCE_S):
            raise NotFound(_nobody(spec, absent, members))
        if not has_said:
            say(f"waiting for a {' and a '.join(absent)} that serves {spec.model}: `flash ps` shows how they stand")
            has_said = True
        await asyncio.sleep(PAUSE_S)
    for member in members:
        if member.serving.pool == spec.pool:
            _require_able(spec, member.serving)


def absent_services(spec: RunSpec, members: Sequence[Member]) -> list[str]:
    """The services that the run needs, and that nobody of its pool is. Rollouts also measure the rows of SFT."""
    needed = ["rollout", "learner"] if spec.train else ["rollout"]
    there = {member.service for member in members if member.serving.pool == spec.pool}
    return [service for service in needed if service not in there]


async def _are_announced(bus: Bus, spec: RunSpec, services: Sequence[str]) -> bool:
    coming = {r.service for r in await bus.replicas(announced=True) if r.metadata.get("pool") == spec.pool}
    return coming.issuperset(services)


def _nobody(spec: RunSpec, absent: Sequence[str], members: Sequence[Member]) -> str:
    if any(member.serving.pool == spec.pool for member in members):
        return f"no {' and no '.join(absent)} serves {spec.model}; `flash ps` shows what runs, `flash up` starts both"
    served = sorted({member.serving.model for member in members})
    others = f" (this stack serves {', '.join(served)})" if served else ""
    near = nearest(spec.model)
    meant = f"; or did you mean {near}?" if near and near != spec.model else ""
    return f"no pool serves {spec.model}; start one with `flash up --model {spec.model}`{others}{meant}"


def _require_able(spec: RunSpec, serving: Serving) -> None:
    """What a config could not know of a model that the catalogue does not have."""
    if spec.thinking and serving.thinking == "none":
        raise ConfigError(f"thinking is true, but {spec.model} does not reason: set it to false")
    if spec.train and serving.context and spec.train.max_length > serving.context:
        raise ConfigError(
            f"train.max_length is {spec.train.max_length}, but {spec.model} reads at most {serving.context} tokens"
        )
