"""A service with a fake engine on the memory bus, and what it is told."""

import asyncio
import hashlib
import itertools
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs

from flash.bus.memory import MemoryBus
from flash.contracts.base import Event
from flash.contracts.groups import GroupRequested
from flash.contracts.keys import adapter_key, spec_key
from flash.contracts.preparing import RowLengths
from flash.contracts.spec import EnvironmentSpec, RunSpec, SamplingSpec
from flash.contracts.values import Example, Message, PolicyRef
from flash.store.memory import MemoryStore
from services.rollout.adapters import Adapters
from services.rollout.engines import Adapter, OnText, Sample, SampleRequest
from services.rollout.prompts import Prompt
from services.rollout.service import Player
from services.rollout.settings import Settings

CONTEXT = 16


@dataclass
class FakeEngine:
    """Says its seed's last digit, three times, and the closing token 0."""

    context: int = CONTEXT
    asked: list[SampleRequest] = field(default_factory=list)
    asking: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(0))
    """Released by each call that begins."""
    cancelled: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(0))
    """Released by each call that is cancelled."""
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    """Nobody is answered before it is open; it is open unless a test closes it."""
    fails: Callable[[], Exception] | None = None
    expected: asyncio.Queue[Adapter] = field(default_factory=asyncio.Queue)

    def __post_init__(self) -> None:
        self.gate.set()

    async def start(self) -> None: ...

    async def sample(self, request: SampleRequest, on_text: OnText | None = None) -> list[Sample]:
        self.asked.append(request)
        self.asking.release()
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled.release()
            raise
        if self.fails:
            raise self.fails()
        if len(request.prompt_ids) >= self.context:
            raise ValueError(f"the context is {self.context}")
        samples = [_said(seed) for seed in request.seeds]
        for index, sample in enumerate(samples):
            for letter in sample.text if on_text else ():
                asyncio.get_running_loop().call_soon(on_text, index, letter)  # type: ignore[arg-type]
        await asyncio.sleep(0)
        return samples

    def expect(self, adapter: Adapter) -> None:
        self.expected.put_nowait(adapter)

    async def close(self) -> None: ...


def _said(seed: int) -> Sample:
    digit = 1 + seed % 9
    return Sample([digit] * 3 + [0], [-0.5] * 4, str(digit) * 3, "stop")


def render(messages: list[Message], thinking: bool) -> Prompt:
    """A letter a token."""
    return Prompt(tuple(ord(letter) for message in messages for letter in message["content"]), opened=thinking)


def follow(messages: Sequence[Message], more: Sequence[Message], last_id: int, thinking: bool) -> Prompt:
    """The end of the turn is a 0, which is not written twice."""
    return Prompt((*([] if last_id == 0 else [0]), *render(list(more), thinking).ids), opened=thinking)


def measure(examples: Sequence[Example], spec: RunSpec) -> RowLengths:
    return RowLengths(tokens=[len(render(example.messages, False).ids) for example in examples])


@dataclass
class World:
    """A bus, a store, a fake engine, and one replica over them."""

    bus: MemoryBus
    store: MemoryStore
    engine: FakeEngine
    folder: Path
    player: Player

    async def run(self, run_id: str = "r1", **other: Any) -> RunSpec:
        """A run whose spec lies in the store."""
        fields: dict[str, Any] = {
            "org": "local", "run_id": run_id, "algorithm": "grpo", "model": "tiny", "pool": "tiny", "seed": 42,
            "environment": EnvironmentSpec(id="local/e", version="v", digest="d", key="k"), "split": "train",
            "sampling": SamplingSpec(group_size=3, temperature=0.5, max_tokens=8, stop_sequences=["."]),
        }  # fmt: skip
        spec = RunSpec(**{**fields, **other})
        await self.store.put(spec_key(run_id), msgspec.json.encode(spec))
        return spec

    async def adapter(self, version: int, run_id: str = "r1") -> PolicyRef:
        """An adapter that lies in the store; no two versions are alike."""
        weights = f"weights {run_id} {version}".encode()
        digest = hashlib.sha256(weights).hexdigest()
        key = adapter_key(run_id, digest)
        await self.store.put(f"{key}/adapter_config.json", b"{}")
        await self.store.put(f"{key}/adapter_model.safetensors", weights)
        return PolicyRef(version=version, key=key, digest=digest)

    async def told(self, pattern: str, count: int = 1) -> list[Any]:
        """The first `count` facts on these subjects, awaited."""
        facts: list[Event] = []
        async with asyncio.timeout(5):
            async for told in self.bus.replay(pattern):
                facts.append(told.event)
                if len(facts) == count:
                    break
        return facts


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    bus, store, engine = MemoryBus(retry_s=0.01), MemoryStore(), FakeEngine()
    seconds = itertools.count()
    player = Player(
        bus, store, engine, render, Adapters(store, tmp_path, 1 << 20),
        Settings(replica="rollout-1", episode_renew_s=0.05), "tiny",
        clock=lambda: float(next(seconds)), follow=follow, measure=measure,
    )  # fmt: skip
    with capture_logs():  # tracebacks drawn for people take longer than the tests
        yield World(bus, store, engine, tmp_path, player)
        await bus.close(0.0)


@pytest.fixture
def requested() -> Callable[..., GroupRequested]:
    """A group that a step needs, with what a test does not care about filled in."""

    def made(**other: Any) -> GroupRequested:
        example = Example(index=0, id="e0", input="2+2", messages=[{"role": "user", "content": "2+2"}])
        fields: dict[str, Any] = {
            "org": "local", "run_id": "r1", "attempt": 1, "pool": "tiny", "scope": "train", "step": 1, "group": 0,
            "example": example, "policy": PolicyRef(),
        }  # fmt: skip
        return GroupRequested(**{**fields, **other})

    return made
