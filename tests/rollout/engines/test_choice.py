"""From a rollout's settings to its engine."""

from pathlib import Path

import pytest

from flash.errors import ConfigError
from flash.models import folder
from flash.models.engines import Choice
from flash.models.rendering import load_tokenizer
from services.rollout.engines.choice import engine_of
from services.rollout.engines.torch import TorchEngine
from services.rollout.settings import Settings
from tests.rollout.engines.conftest import VLLM


async def test_the_torch_engine_is_made_for_one_device_only(tmp_path: Path) -> None:
    place = folder("tiny", tmp_path)
    torch, tokenizer = Choice("torch", "a test asks for it"), load_tokenizer(place)

    assert isinstance(engine_of(Settings(), torch, place, tokenizer), TorchEngine)
    with pytest.raises(ConfigError, match="FLASH_TENSOR_PARALLEL is 2"):
        engine_of(Settings(tensor_parallel=2), torch, place, tokenizer)


@VLLM
async def test_vllm_has_processes_of_its_own_where_it_has_several_devices(tmp_path: Path) -> None:
    place = folder("tiny", tmp_path)
    vllm, tokenizer = Choice("vllm", "a test asks for it"), load_tokenizer(place)

    alone = engine_of(Settings(device="cpu"), vllm, place, tokenizer)
    spread = engine_of(Settings(device="cpu", tensor_parallel=2), vllm, place, tokenizer)

    assert type(alone).__name__ == "VllmEngine"
    assert type(spread).__name__ == "AsyncVllmEngine"
