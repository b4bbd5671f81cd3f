"""What tests of the hub share: archives, who pushes them, and a scorer that answers what the test wants."""

import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from flash.bus.memory import MemoryBus
from flash.contracts.environments import (
    EnvironmentOffer,
)
from flash.contracts.hosting import CheckReport, EnvironmentCheck
from flash.contracts.requests import EnvironmentPublish, EnvironmentResolve, EnvironmentUpload, EnvironmentVersion
from flash.contracts.runs import RunSubmitted
from flash.contracts.spec import EnvironmentSpec, RunSpec
from flash.errors import NotFound

ARCHIVE = bytes(range(256)) * 16


def digest_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@dataclass
class FakeScorer:
    """Reports what it is told to, and remembers what it was asked."""

    bus: MemoryBus
    report: CheckReport = field(default_factory=lambda: CheckReport(rows={"train": 3}, prompt_text="Be kind."))
    seen: list[bytes] = field(default_factory=list)
    asked: list[EnvironmentCheck] = field(default_factory=list)

    async def on_check(self, request: EnvironmentCheck) -> CheckReport:
        self.asked.append(request)
        archive = await self.bus.store.get(request.key)
        assert digest_of(archive) == request.digest
        self.seen.append(archive)
        return self.report


@dataclass
class Clock:
    now: float = 7.0

    def __call__(self) -> float:
        return self.now


async def scorer(bus: MemoryBus, report: CheckReport | None = None) -> FakeScorer:
    fake = FakeScorer(bus) if report is None else FakeScorer(bus, report)
    await bus.answer("scorer", {EnvironmentCheck: fake.on_check})
    return fake


async def hub_of(bus: MemoryBus, *withdrawn: str) -> None:
    """A hub that has whatever is asked for, but for these versions."""

    async def on_resolve(request: EnvironmentResolve) -> EnvironmentVersion:
        id, _, version = request.reference.partition("@")
        if version in withdrawn:
            raise NotFound(f"{request.reference} was withdrawn")
        return EnvironmentVersion(id=id, version=version, digest="d", key="k", packed_bytes=1, published_at=1.0)

    await bus.answer("hub", {EnvironmentResolve: on_resolve})


async def upload(bus: MemoryBus, archive: bytes = ARCHIVE, parts: int = 2, name: str = "sums") -> str:
    digest = digest_of(archive)
    size = -(-len(archive) // parts)
    for part in range(parts):
        data = archive[part * size : (part + 1) * size]
        await bus.ask(EnvironmentUpload(org=bus.org, environment=name, digest=digest, part=part, data=data))
    return digest


async def push(bus: MemoryBus, archive: bytes = ARCHIVE, name: str = "sums", **given: Any) -> EnvironmentVersion:
    digest = await upload(bus, archive, name=name)
    version: EnvironmentVersion = await bus.ask(
        EnvironmentPublish(org=bus.org, environment=name, digest=digest, parts=2, **given)
    )
    return version


async def keys(bus: MemoryBus, prefix: str) -> list[str]:
    return [stat.key async for stat in bus.store.list(prefix)]


def offer(archive: bytes, name: str = "sums") -> EnvironmentOffer:
    return EnvironmentOffer(org="local", environment=name, digest=digest_of(archive), num_bytes=len(archive))


async def meant(bus: MemoryBus, reference: str = "local/sums") -> str:
    version: EnvironmentVersion = await bus.ask(EnvironmentResolve(reference=reference))
    return version.version


async def later(bus: MemoryBus, clock: Clock, content: bytes) -> EnvironmentVersion:
    """A push a second after whatever was before."""
    clock.now += 1
    return await push(bus, content)


async def only(pages: AsyncIterator[Any]) -> Any:
    (page,) = [page async for page in pages]
    return page


def run_of(version: EnvironmentVersion, run_id: str, *, org: str = "local", at: float = 1.0) -> RunSubmitted:
    environment = EnvironmentSpec(id=version.id, version=version.version, digest=version.digest, key=version.key)
    spec = RunSpec(
        org=org, run_id=run_id, algorithm="eval", model="tiny", pool="tiny", seed=1, split="eval",
        environment=environment,
    )  # fmt: skip
    return RunSubmitted(org=org, run_id=run_id, spec=spec, submitted_at=at)
