"""One GPU for rollouts and learner: what nothing is drawn with gives its memory back."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from services.rollout.engines import Sample, SampleRequest
from services.rollout.engines.fused import FusedDecoder
from services.rollout.engines.rows import Job, Row
from services.rollout.engines.sleeping import Sleeping
from tests.rollout.engines.conftest import made_of

Ask = Callable[..., SampleRequest]


class Telling:
    """An engine that writes down what it is told, and draws when it is let."""

    context = 64

    def __init__(self) -> None:
        self.told: list[str] = []
        self.let = asyncio.Event()

    async def start(self) -> None: ...

    async def sample(self, request: SampleRequest, on_text: Any = None) -> list[Sample]:
        self.told.append("sample")
        await self.let.wait()
        return [Sample([1], [-1.0], "a", "length")]

    def expect(self, adapter: Any) -> None:
        self.told.append("expect")

    async def sleep(self) -> None:
        self.told.append("sleep")

    async def close(self) -> None: ...


async def test_it_sleeps_when_nothing_was_drawn_for_a_while_and_only_then(ask: Ask) -> None:
    engine = Telling()
    subject = Sleeping(engine, after_s=0.05)
    await subject.start()

    drawing = [asyncio.create_task(subject.sample(ask())) for _ in range(2)]
    await asyncio.sleep(0.1)
    subject.expect(None)  # type: ignore[arg-type]  # which adapter is all the same
    assert engine.told == ["sample", "sample", "expect"]

    engine.let.set()
    await asyncio.gather(*drawing)
    assert engine.told[3:] == [], "not at once: the next group may be on its way"
    await asyncio.sleep(0.15)
    assert engine.told[3:] == ["sleep"]

    subject.expect(None)  # type: ignore[arg-type]
    await subject.sample(ask())
    assert engine.told[4:] == ["sample"], "an adapter that comes while it sleeps is read by whoever draws with it"
    await subject.close()


@pytest.mark.parametrize("subject", ["qwen3", "qwen2"])
def test_all_weights_move_and_those_that_are_one_stay_one(subject: str, tmp_path: Path) -> None:
    """As to and from a GPU, but from the CPU to the CPU."""
    decoder = FusedDecoder(made_of(subject, tmp_path, {}).plain())
    row = Row(Job(SampleRequest((3, 4, 5), (1,), 1.0, 4), 4, lambda _: None), 0, [0.0] * 4)
    logits = decoder.add([row])
    decoder.drop([row])
    before = {tensor.data_ptr(): tensor.data for tensor in decoder.weights()}

    decoder._move(torch.clone)

    after = {tensor.data_ptr() for tensor in decoder.weights()}
    assert len(after) == len(before)
    assert not after & before.keys()
    for tensor in before.values():
        tensor.fill_(float("nan"))
    assert torch.equal(decoder.add([row]), logits)
