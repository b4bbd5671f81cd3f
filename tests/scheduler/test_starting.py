"""What a run may start from: a saved adapter of a run of its own organisation, of the same base model."""

from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from flash.bus.memory import MemoryBus
from flash.contracts.keys import adapter_key, spec_key
from flash.contracts.spec import EnvironmentSpec, RunSpec, TrainSpec
from flash.contracts.steps import StepSaved
from flash.contracts.values import PolicyRef
from flash.errors import NotFound, Refused
from services.scheduler.starting import check_start

SAVED = PolicyRef(version=4, key=adapter_key("before", "d4"), digest="d4")


def spec(run_id: str, *, start: PolicyRef | None = None, policy: PolicyRef | None = None, **more: Any) -> RunSpec:
    train = TrainSpec(
        lora_rank=8, lora_alpha=16, learning_rate=1e-3, batch_size=2, max_length=64, save_every=2,
        init_from_adapter=start,
    )  # fmt: skip
    known: dict[str, Any] = {"org": "ours", "model": "tiny", "algorithm": "eval" if policy else "sft"} | more
    return RunSpec(
        run_id=run_id, pool="tiny", seed=1, split="train", train=None if policy else train,
        policy=policy or PolicyRef(), environment=EnvironmentSpec(id="ours/e", version="v", digest="d", key="k"),
        **known,
    )  # fmt: skip


@pytest.fixture
async def bus() -> AsyncIterator[MemoryBus]:
    """The run `before` has saved its fourth step."""
    bus = MemoryBus()
    await bus.store.put(spec_key("before"), msgspec.json.encode(spec("before")))
    await bus.publish(StepSaved(org="ours", run_id="before", attempt=1, step=4, key="c", policy=SAVED, final=True))
    yield bus
    await bus.close(0)


@pytest.mark.parametrize("asked", [spec("r", start=SAVED), spec("r", policy=SAVED), spec("r")])
async def test_what_was_saved_may_be_started_from_and_evaluated(bus: MemoryBus, asked: RunSpec) -> None:
    await check_start(bus, bus.store, asked)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (spec("r", start=SAVED, org="theirs"), "there is no run before to start from"),
        (spec("r", policy=SAVED, org="theirs"), "there is no run before to start from"),
        (spec("r", start=PolicyRef(key=adapter_key("gone", "d4"), digest="d4")), "there is no run gone to start from"),
        (spec("r", start=PolicyRef(key="runs/before/checkpoints/step-4")), "there is no run 'runs/before/"),
        (spec("r", start=msgspec.structs.replace(SAVED, digest="d3")), "before has saved no such adapter"),
        (spec("r", start=PolicyRef(version=3, key=adapter_key("before", "d3"), digest="d3")), "has saved no such"),
    ],
)
async def test_anything_else_is_not_found(bus: MemoryBus, asked: RunSpec, said: str) -> None:
    with pytest.raises(NotFound, match=said):
        await check_start(bus, bus.store, asked)


async def test_an_adapter_of_another_model_is_refused(bus: MemoryBus) -> None:
    with pytest.raises(Refused, match="before trained an adapter of tiny, but this run's model is smollm2-135m"):
        await check_start(bus, bus.store, spec("r", start=SAVED, model="smollm2-135m"))
