"""Who cannot generate is never ready, or no longer, and says why."""

import asyncio
from typing import Any

import pytest

from flash.errors import ConfigError
from services.rollout.engines import Engine, GenerationFailed, OnText, Sample, SampleRequest
from services.rollout.prompts import Prompt
from services.rollout.readiness import Proved

ASKED = SampleRequest(prompt_ids=(5,), seeds=(1,), temperature=1.0, max_tokens=8)


def proved(engine: Engine) -> Proved:
    return Proved(engine, Prompt((1, 2)), "tiny")


async def test_an_engine_is_ready_once_it_has_generated(world: Any) -> None:
    await proved(world.engine).start()

    assert [asked.prompt_ids for asked in world.engine.asked] == [(1, 2)]


async def test_one_that_fails_says_why(world: Any) -> None:
    world.engine.fails = lambda: GenerationFailed("the base model gives probabilities that are not finite")

    with pytest.raises(ConfigError, match="tiny cannot generate here: GenerationFailed: the base model gives"):
        await proved(world.engine).start()


@pytest.mark.parametrize("sample", [Sample([], [], "", "stop"), Sample([7], [float("nan")], "x", "length")])
async def test_one_that_only_seems_to_generate_is_not_ready(
    world: Any, monkeypatch: pytest.MonkeyPatch, sample: Sample
) -> None:
    async def says(request: SampleRequest, on_text: OnText | None = None) -> list[Sample]:
        return [sample]

    monkeypatch.setattr(world.engine, "sample", says)

    with pytest.raises(ConfigError, match="finite"):
        await proved(world.engine).start()


async def test_one_that_breaks_for_good_ends_its_process(world: Any) -> None:
    engine = proved(world.engine)
    await engine.start()
    watching = asyncio.create_task(engine.watch())
    world.engine.fails = lambda: RuntimeError("CUDA error: device lost")

    with pytest.raises(RuntimeError):
        await engine.sample(ASKED)

    with pytest.raises(ConfigError, match="tiny cannot generate here: RuntimeError: CUDA error: device lost"):
        await asyncio.wait_for(watching, 5)


async def test_one_that_could_not_do_one_thing_goes_on(world: Any) -> None:
    engine = proved(world.engine)
    await engine.start()
    watching = asyncio.create_task(engine.watch())
    failures = [RuntimeError("out of memory"), GenerationFailed("of this adapter")]
    for failure in failures:
        world.engine.fails = lambda failure=failure: failure
        with pytest.raises(type(failure)):
            await engine.sample(ASKED)
        world.engine.fails = None
        await asyncio.sleep(0.01)

    assert len(await engine.sample(ASKED)) == 1
    assert [asked.prompt_ids for asked in world.engine.asked] == [(1, 2), (5,), (1, 2), (5,), (5,)]
    assert not watching.done()
    watching.cancel()
