"""What is the torch engine's own."""

import random
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from flash.models import folder
from services.rollout.engines import GenerationFailed, SampleRequest
from services.rollout.engines.batch import Batch
from services.rollout.engines.fused import FusedDecoder
from services.rollout.engines.rows import Job
from services.rollout.engines.torch import TorchEngine, load
from tests.rollout.engines.conftest import VOCABULARY, made_of


async def test_a_model_that_cannot_be_loaded_says_so_at_start() -> None:
    def fails() -> Any:
        raise OSError("no such folder")

    with pytest.raises(OSError, match="no such folder"):
        await TorchEngine(fails).start()


async def test_what_it_cannot_hold_an_answer_to_it_refuses(tmp_path: Path) -> None:
    request = SampleRequest((1,), (0,), 1.0, max_tokens=4, schema="{}")
    engine = TorchEngine(partial(load, folder("tiny", tmp_path)))
    await engine.start()

    with pytest.raises(GenerationFailed, match="set FLASH_ENGINE to vllm"):
        await engine.sample(request)
    await engine.close()


@torch.inference_mode()
def test_keys_and_values_never_take_more_than_they_may(tmp_path: Path) -> None:
    decoder = FusedDecoder(made_of("qwen3", tmp_path, {}).plain())
    cache_bytes = 1_500 * decoder.token_bytes
    limits = {"max_rows": 16, "cache_bytes": cache_bytes, "adapter_bytes": 1}
    batch = Batch(decoder, decode=lambda ids: "", closing_ids=frozenset(), **limits)
    rng, done, most = random.Random(0), list[Any](), 0
    for _ in range(30):
        prompt = tuple(rng.choices(range(VOCABULARY), k=rng.randint(1, 150)))
        length, seeds = rng.randint(1, 100), tuple(range(rng.randint(1, 5)))
        batch.add(Job(SampleRequest(prompt, seeds, 1.0, length), length, done.append))

    while not batch.is_idle:
        batch.step()
        most = max(most, sum(layer.nbytes for kept in (decoder._given, decoder._said) for layer in kept.layers))

    assert len(done) == 30
    assert cache_bytes / 2 < most <= cache_bytes
