"""The engine for laptops and CI, fine on one GPU too: a model of transformers, and our own way of drawing with it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from flash.models.rendering import closing_ids, load_tokenizer
from services.rollout.engines.batch import Batch, Decoder
from services.rollout.engines.fused import FusedDecoder, is_fusible
from services.rollout.engines.modules import ModulesDecoder
from services.rollout.engines.stopping import Decode
from services.rollout.engines.threaded import ThreadedEngine


@dataclass(frozen=True)
class Loaded:
    """A model as the engine needs it."""

    model: Any
    """A causal model of transformers."""
    decode: Decode
    closing_ids: frozenset[int]


def load(folder: Path, *, device: str = "auto", dtype: str = "auto") -> Loaded:
    """`auto` is the GPU where there is one, and there bfloat16; float32 on the CPU."""
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # stderr is for the log
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if dtype == "auto":
        dtype = "float32" if device == "cpu" else "bfloat16"
    tokenizer = load_tokenizer(folder)
    model: Any = AutoModelForCausalLM.from_pretrained(
        folder, dtype=getattr(torch, dtype), attn_implementation="sdpa", local_files_only=True
    )
    return Loaded(
        model=model.to(device).eval(),
        decode=lambda ids: str(tokenizer.decode(list(ids), skip_special_tokens=True)),
        closing_ids=closing_ids(tokenizer, model.config),
    )


class TorchEngine(ThreadedEngine):
    """See `Engine`."""

    def __init__(
        self,
        load: Callable[[], Loaded],
        *,
        threads: int = 1,
        max_rows: int = 64,
        cache_bytes: int = 512 << 20,
        adapter_bytes: int = 128 << 20,
        fused: bool = True,
    ) -> None:
        """`fused=False` goes through transformers' modules even where the arithmetic is written by hand."""
        super().__init__(threads)
        self._load = load
        self._limits = {"max_rows": max_rows, "cache_bytes": cache_bytes, "adapter_bytes": adapter_bytes}
        self._fused = fused

    def _loaded(self) -> tuple[Batch, int]:
        loaded = self._load()
        fused = self._fused and is_fusible(loaded.model.config)
        decoder: Decoder = FusedDecoder(loaded.model) if fused else ModulesDecoder(loaded.model)
        batch = Batch(decoder, decode=loaded.decode, closing_ids=loaded.closing_ids, **self._limits)
        return batch, loaded.model.config.get_text_config().max_position_embeddings
