"""What serves a model, and refusing what nothing serves: flash/client/serving.py."""

import asyncio
from typing import Any

import pytest

from flash.bus.memory import MemoryBus
from flash.client.serving import absent_services, pools, require_pool
from flash.contracts.spec import EnvironmentSpec, RunSpec, SamplingSpec, TrainSpec
from flash.errors import ConfigError, NotFound
from flash.models import Serving, pool_of


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flash.client.serving.PATIENCE_S", 0.0)


SAMPLING = SamplingSpec(group_size=2, temperature=1.0, max_tokens=8)


def spec(model: str = "tiny", *, trains: bool = True, **more: Any) -> RunSpec:
    train = TrainSpec(lora_rank=8, lora_alpha=8, learning_rate=1e-4, batch_size=2, max_length=256, save_every=5)
    return RunSpec(
        org="local",
        run_id="flash-1-00000001",
        algorithm="grpo",
        model=model,
        pool=pool_of(model),
        seed=1,
        environment=EnvironmentSpec(id="local/x", version="a", digest="a", key="k"),
        split="train",
        sampling=SAMPLING,
        train=train if trains else None,
        **more,
    )


def serving(model: str = "tiny", **more: Any) -> dict[str, str]:
    told = {"context": 512, "thinking": "hybrid", "device": "cpu", "accelerator": "", "accelerator_bytes": 0, **more}
    return Serving(model=model, pool=pool_of(model), **told).metadata()


async def stack(*services: str, **more: Any) -> MemoryBus:
    bus = MemoryBus()
    for service in services:
        await bus.answer(service, {}, **serving(**more))
    return bus


async def test_what_a_replica_tells_is_what_is_read_again() -> None:
    bus = await stack("rollout", device="cuda:1", accelerator="NVIDIA H200", accelerator_bytes=150_000_000_000)
    await bus.answer("hub", {})

    (member,) = await pools(bus)

    assert (member.service, member.serving.metadata()) == (
        "rollout",
        serving(device="cuda:1", accelerator="NVIDIA H200", accelerator_bytes=150_000_000_000),
    )


async def test_a_run_wants_those_services_that_it_uses() -> None:
    members = await pools(await stack("rollout"))

    assert absent_services(spec(), members) == ["learner"]
    assert absent_services(spec(trains=False), members) == []
    assert absent_services(spec("smollm2-135m"), members) == ["rollout", "learner"]


async def test_a_model_that_is_served_is_let_through() -> None:
    await require_pool(await stack("rollout", "learner"), spec())


async def test_a_model_that_nothing_serves_is_refused_with_what_to_start() -> None:
    with pytest.raises(NotFound) as raised:
        await require_pool(await stack("rollout", "learner"), spec("smollm2-135m"))
    assert str(raised.value) == (
        "no pool serves smollm2-135m; start one with `flash up --model smollm2-135m` (this stack serves tiny)"
    )


async def test_a_pool_that_warms_up_is_waited_for() -> None:
    bus = await stack("rollout")
    await bus.announce("learner", pool="tiny")
    said: asyncio.Queue[str] = asyncio.Queue()
    waiting = asyncio.create_task(require_pool(bus, spec(), say=said.put_nowait))
    assert await said.get() == "waiting for a learner that serves tiny: `flash ps` shows how they stand"

    await bus.answer("learner", {}, **serving())

    await waiting


async def test_a_mistyped_id_is_met_with_the_nearest_model() -> None:
    with pytest.raises(NotFound, match=r"or did you mean Qwen/Qwen3-0.6B\?$"):
        await require_pool(await stack(), spec("Qwen/Qwen3-0.7B"))


async def test_half_a_pool_is_told_as_such() -> None:
    with pytest.raises(NotFound, match=r"^no learner serves tiny; `flash ps` shows what runs"):
        await require_pool(await stack("rollout"), spec())


async def test_a_replica_that_starts_is_waited_for() -> None:
    bus = await stack("rollout")
    told: list[str] = []
    started: list[asyncio.Task[None]] = []

    def hear(note: str) -> None:
        told.append(note)
        started.append(asyncio.create_task(bus.answer("learner", {}, **serving())))

    await require_pool(bus, spec(), is_starting=lambda services: services == ["learner"], say=hear)

    assert told == ["waiting for a learner that serves tiny: `flash ps` shows how they stand"]


async def test_what_only_the_pool_knows_of_a_model_is_held_against_the_run() -> None:
    bus = await stack("rollout", "learner", model="someone/else", context=200, thinking="none")

    with pytest.raises(ConfigError, match=r"train.max_length is 256, but someone/else reads at most 200 tokens"):
        await require_pool(bus, spec("someone/else"))
    with pytest.raises(ConfigError, match=r"thinking is true, but someone/else does not reason: set it to false"):
        await require_pool(bus, spec("someone/else", thinking=True))
