"""Who cannot generate is never ready, and says why."""

from typing import Any

import pytest

from flash.errors import ConfigError
from services.rollout.engines import GenerationFailed, OnText, Sample, SampleRequest
from services.rollout.prompts import Prompt
from services.rollout.readiness import prove


async def test_an_engine_that_generates_is_ready(world: Any) -> None:
    await prove(world.engine, Prompt((1, 2)), "tiny")

    assert [asked.prompt_ids for asked in world.engine.asked] == [(1, 2)]


async def test_one_that_fails_says_why(world: Any) -> None:
    world.engine.fails = lambda: GenerationFailed("the base model gives probabilities that are not finite")

    with pytest.raises(ConfigError, match="tiny cannot generate here: GenerationFailed: the base model gives"):
        await prove(world.engine, Prompt((1, 2)), "tiny")


@pytest.mark.parametrize("sample", [Sample([], [], "", "stop"), Sample([7], [float("nan")], "x", "length")])
async def test_one_that_only_seems_to_generate_is_not_ready(
    world: Any, monkeypatch: pytest.MonkeyPatch, sample: Sample
) -> None:
    async def says(request: SampleRequest, on_text: OnText | None = None) -> list[Sample]:
        return [sample]

    monkeypatch.setattr(world.engine, "sample", says)

    with pytest.raises(ConfigError, match="not finite"):
        await prove(world.engine, Prompt((1, 2)), "tiny")
