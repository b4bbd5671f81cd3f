"""What is known of a run's rows before it is submitted: flash/client/surveying.py."""

from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest

from flash.bus.memory import MemoryBus
from flash.client.surveying import survey
from flash.contracts.preparing import DatasetMeasure, DatasetPrepare, PreparedRows, RowLengths
from flash.contracts.spec import EnvironmentSpec, RunSpec, SamplingSpec, TrainSpec
from flash.contracts.values import Fault
from flash.errors import ConfigError, EnvironmentFault

TRAIN = TrainSpec(
    lora_rank=8, lora_alpha=16, learning_rate=1e-4, batch_size=4, max_length=64, save_every=5, epochs=2,
)  # fmt: skip
SPEC = RunSpec(
    org="local", run_id="r1", algorithm="sft", model="tiny", pool="tiny", seed=1, split="train", train=TRAIN,
    environment=EnvironmentSpec(id="local/e", version="v", digest="d", key="k"),
)  # fmt: skip


@dataclass
class Services:
    """A scorer with so many rows, and a rollout for which each is ten tokens long."""

    bus: MemoryBus
    rows: int = 3000
    empty: str = ""
    """A split without rows."""
    fault: Fault | None = None
    missing: dict[int, list[int]] = field(default_factory=dict)
    thoughtless: dict[int, list[int]] = field(default_factory=dict)
    unusable: bool = False
    prepared: list[DatasetPrepare] = field(default_factory=list)
    measured: list[DatasetMeasure] = field(default_factory=list)

    async def on_prepare(self, request: DatasetPrepare) -> PreparedRows:
        self.prepared.append(request)
        missing = self.missing.get(request.chunk, [])
        rows = 0 if request.spec.split == self.empty else self.rows
        thoughtless = self.thoughtless.get(request.chunk, [])
        return PreparedRows(
            rows=rows, digest=f"d{request.chunk}", missing_output=missing, thoughtless=thoughtless, fault=self.fault
        )

    async def on_measure(self, request: DatasetMeasure) -> RowLengths:
        self.measured.append(request)
        return RowLengths(tokens=[10] * request.rows, unusable=list(range(request.rows)) if self.unusable else [])


@pytest.fixture
async def services(bus: MemoryBus) -> Services:
    made = Services(bus)
    await bus.answer("scorer", {DatasetPrepare: made.on_prepare})
    await bus.answer("rollout", {DatasetMeasure: made.on_measure}, pool="tiny")
    return made


async def test_every_chunk_is_rendered_and_measured_and_the_steps_are_known(services: Services) -> None:
    found = await survey(services.bus, SPEC, b"sealed")

    assert [request.chunk for request in services.prepared] == [0, 1, 2]
    assert {request.sealed for request in services.prepared} == {b"sealed"}
    assert [request.rows for request in services.measured] == [1024, 1024, 952]
    assert (found.rows, found.looked_at, found.plan.steps) == (3000, 3000, 1500)
    assert found.lengths is not None
    assert (found.lengths.rows, found.lengths.p95) == (3000, 10)


async def test_an_evaluation_split_without_rows_is_refused_before_anything_is_queued(services: Services) -> None:
    train = msgspec.structs.replace(TRAIN, eval_every=5, eval_split="held-out")
    services.empty = "held-out"

    with pytest.raises(EnvironmentFault, match="the held-out split of local/e has no rows to evaluate on"):
        await survey(services.bus, msgspec.structs.replace(SPEC, train=train))


@pytest.mark.parametrize(("algorithm", "found"), [("sft", (3, 1030)), ("grpo", ())])
async def test_answers_without_a_thought_are_counted_where_they_are_learned_from(
    services: Services, algorithm: Any, found: tuple[int, ...]
) -> None:
    services.thoughtless = {0: [3], 1: [1030, 1500]}
    train = msgspec.structs.replace(TRAIN, max_examples=1100, steps=2)
    sampling = SamplingSpec(group_size=2, temperature=1.0, max_tokens=8) if algorithm == "grpo" else None
    spec = msgspec.structs.replace(SPEC, algorithm=algorithm, train=train, sampling=sampling, thinking=True)

    assert (await survey(services.bus, spec)).thoughtless == found


async def test_the_hash_is_that_of_the_rows_and_nothing_else(services: Services) -> None:
    first, again = await survey(services.bus, SPEC), await survey(services.bus, SPEC)
    services.rows = 2000
    other = await survey(services.bus, SPEC)

    assert first.digest == again.digest != other.digest
    assert len(first.digest) == 64


async def test_of_very_many_rows_the_first_are_looked_at(services: Services) -> None:
    services.rows = 100_000

    found = await survey(services.bus, SPEC)

    assert (found.rows, found.looked_at, len(services.prepared)) == (100_000, 16 * 1024, 16)


@pytest.mark.parametrize(
    ("what", "error", "sentence"),
    [
        (
            {"fault": Fault(kind="load-failed", message="train.jsonl, line 17: no JSON", traceback="environment.py")},
            EnvironmentFault,
            "local/e@v cannot be trained on: train.jsonl, line 17: no JSON\nenvironment.py",
        ),
        ({"rows": 0}, EnvironmentFault, "the train split of local/e has no rows"),
        ({"missing": {1: [1024, 1030]}}, ConfigError, "rows 1024, 1030 have none: add it, or use grpo"),
        ({"unusable": True}, ConfigError, "none of the 3000 rows is short enough to learn from"),
    ],
)
async def test_what_cannot_be_trained_on_is_said_in_a_sentence(
    services: Services, what: dict[str, Any], error: type[Exception], sentence: str
) -> None:
    for name, value in what.items():
        setattr(services, name, value)

    with pytest.raises(error, match=sentence):
        await survey(services.bus, SPEC)


async def test_without_a_rollout_the_rows_are_known_and_their_tokens_are_not(
    bus: MemoryBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, said = Services(bus), list[str]()
    await bus.answer("scorer", {DatasetPrepare: made.on_prepare})
    monkeypatch.setattr("flash.client.surveying.MEASURE_S", 0.05)

    found = await survey(bus, SPEC, say=said.append)

    assert (found.rows, found.lengths) == (3000, None)
    assert said[-1].startswith("tokens are not counted: no rollout took dataset.measure")
