"""vLLM in processes of its own, on the CPU: what GPUs get."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("vllm", reason="vLLM is in a venv of its own: make vllm")

from services.rollout.engines import SampleRequest
from services.rollout.engines.vllm import Options
from services.rollout.engines.vllm_async import AsyncVllmEngine
from tests.rollout.engines import test_engines as suite
from tests.rollout.engines.conftest import made_of

Ask = Callable[..., SampleRequest]


@pytest.mark.slow
async def test_it_owes_what_every_engine_does(tmp_path: Path, ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    model = made_of("qwen3-vllm", tmp_path, {})
    place = model.saved()
    engine = AsyncVllmEngine(Options(place, model.decode, frozenset(), cache_bytes=16 << 20, adapters=1))
    await engine.start()
    engines: Any = lambda closing=-1, **limits: asyncio.sleep(0, engine)  # noqa: E731 - the same for every part
    monkeypatch.setattr(model, "engine", engines)

    for part in (
        suite.test_logprobs_are_of_the_temperature_that_was_sampled_with,
        suite.test_a_sample_depends_on_its_seed_and_not_on_its_batch_mates,
        suite.test_adapters_share_a_batch_and_each_request_is_answered_by_its_own,
        suite.test_a_stop_string_cuts_the_text_and_keeps_the_tokens,
        suite.test_text_is_streamed_and_never_shows_a_stop_string,
        suite.test_cancelling_frees_the_rows_and_disturbs_nobody,
        suite.test_a_bad_adapter_fails_its_own_request_only,
        suite.test_a_prompt_without_room_is_refused,
        suite.test_one_that_has_slept_draws_as_before,
    ):
        await part(model, ask)
    requests = [ask("more than it holds", seeds=1, adapter=model.adapter(10 + i)) for i in range(6)]
    for request, samples in zip(requests, await asyncio.gather(*map(engine.sample, requests)), strict=True):
        assert model.gap(request, samples) < suite.TOLERANCE
    await suite.test_a_closed_engine_lets_nobody_wait(model, ask)
