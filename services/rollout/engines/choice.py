"""The engine that a rollout's settings ask for."""

from functools import partial
from pathlib import Path
from typing import Any

from flash.errors import ConfigError
from flash.models import card
from flash.models.engines import Choice, on_gpu
from flash.models.rendering import closing_ids
from services.rollout.engines import Engine
from services.rollout.engines.sleeping import Sleeping
from services.rollout.settings import Settings


def engine_of(settings: Settings, choice: Choice, place: Path, tokenizer: Any) -> Engine:
    """`place` has the model. Raises ConfigError for what the engine cannot do."""
    engine = _awake(settings, choice, place, tokenizer)
    return engine if settings.sleep_after_s is None else Sleeping(engine, settings.sleep_after_s)


def _awake(settings: Settings, choice: Choice, place: Path, tokenizer: Any) -> Engine:
    if choice.name == "vllm":
        return _vllm(settings, place, tokenizer)
    if settings.tensor_parallel > 1:
        raise ConfigError(
            f"FLASH_TENSOR_PARALLEL is {settings.tensor_parallel}, but the torch engine uses one device: "
            "set it to 1, or FLASH_ENGINE to vllm"
        )
    from services.rollout.engines.torch import TorchEngine, load

    return TorchEngine(
        partial(load, place, device=settings.device, dtype=settings.dtype),
        threads=settings.threads,
        max_rows=settings.max_rows,
        cache_bytes=settings.cache_bytes,
    )


def _vllm(settings: Settings, place: Path, tokenizer: Any) -> Engine:
    from transformers import AutoConfig

    from services.rollout.engines.vllm import Options, VllmEngine
    from services.rollout.engines.vllm_async import AsyncVllmEngine

    gpu = on_gpu(settings.device)
    options = Options(
        place,
        decode=lambda ids: str(tokenizer.decode(list(ids), skip_special_tokens=True)),
        closing_ids=closing_ids(tokenizer, AutoConfig.from_pretrained(place, local_files_only=True)),
        device=settings.device if gpu else "cpu",
        dtype=settings.dtype if settings.dtype != "auto" else "bfloat16" if gpu else "float32",
        threads=settings.threads,
        max_rows=settings.max_rows,
        cache_bytes=settings.cache_bytes,
        adapters=settings.adapters,
        largest_rank=card(settings.model).max_lora_rank,
        tensor_parallel=settings.tensor_parallel,
        sleeps=settings.sleep_after_s is not None,
    )
    return AsyncVllmEngine(options) if gpu or options.tensor_parallel > 1 else VllmEngine(options)
