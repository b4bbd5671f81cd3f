"""What is the torch engine's own."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest

from flash.models import folder
from services.rollout.engines import GenerationFailed, SampleRequest
from services.rollout.engines.torch import TorchEngine, load


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
