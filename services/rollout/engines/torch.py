"""The engine for laptops and CI: one thread with a model, drawing for everybody who asks.

Fine on one GPU too, where the machine has one. Only this file knows of threads.
"""

import asyncio
import atexit
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from flash.models.rendering import closing_ids, load_tokenizer
from services.rollout.engines import OnText, Sample, SampleRequest
from services.rollout.engines.batch import Batch, Decoder
from services.rollout.engines.fused import FusedDecoder, is_fusible
from services.rollout.engines.modules import ModulesDecoder
from services.rollout.engines.rows import Job
from services.rollout.engines.stopping import Decode


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


class TorchEngine:
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
        self._load = load
        self._threads = threads
        self._limits = {"max_rows": max_rows, "cache_bytes": cache_bytes, "adapter_bytes": adapter_bytes}
        self._fused = fused
        self._context = 0
        self._inbox: deque[Job] = deque()
        self._work = threading.Condition()
        self._closing = False
        self._thread: threading.Thread | None = None

    @property
    def context(self) -> int:
        return self._context

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        ready: asyncio.Future[None] = loop.create_future()

        def told(error: BaseException | None) -> None:
            if not ready.done():
                ready.set_exception(error) if error else ready.set_result(None)

        self._thread = threading.Thread(
            target=self._run, args=(lambda error: _call(loop, told, error),), name="engine", daemon=True
        )
        self._thread.start()
        # The interpreter must not be taken down around a thread in the middle of torch.
        atexit.register(self._stop)
        await ready

    async def sample(self, request: SampleRequest, on_text: OnText | None = None) -> list[Sample]:
        room = self._context - len(request.prompt_ids)
        if not request.prompt_ids or not request.seeds or min(room, request.max_tokens) < 1:
            raise ValueError(
                f"{len(request.seeds)} samples of {request.max_tokens} tokens after a prompt of "
                f"{len(request.prompt_ids)}: each must be at least 1, and the context is {self._context}"
            )
        if not all(0 <= seed < 2**64 for seed in request.seeds):
            raise ValueError(f"seeds are {request.seeds}, but each must be from 0 to 2^64 - 1")
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[list[Sample]] = loop.create_future()

        def told(result: list[Sample] | BaseException) -> None:
            if not answer.done():
                answer.set_exception(result) if isinstance(result, BaseException) else answer.set_result(result)

        job = Job(
            request,
            max_tokens=min(room, request.max_tokens),
            on_done=lambda result: _call(loop, told, result),
            on_text=(lambda index, piece: _call(loop, on_text, index, piece)) if on_text else None,
        )
        with self._work:
            if self._closing or self._thread is None:
                raise RuntimeError("the engine is not running")
            self._inbox.append(job)
            self._work.notify()
        try:
            return await answer
        except asyncio.CancelledError:
            job.cancelled = True
            raise

    async def close(self) -> None:
        await asyncio.to_thread(self._stop)

    def _stop(self) -> None:
        with self._work:
            self._closing = True
            self._work.notify()
        if self._thread:
            self._thread.join()
        atexit.unregister(self._stop)

    def _run(self, ready: Callable[[BaseException | None], None]) -> None:
        try:
            torch.set_num_threads(self._threads)
            batch = self._loaded()
        except BaseException as error:
            ready(error)
            return
        ready(None)
        with torch.inference_mode():
            while self._take_in(batch):
                try:
                    batch.step()
                except Exception as error:  # whatever torch raises: who asked must hear of it, and others go on
                    _give_up(batch, error)
            _give_up(batch, RuntimeError("the engine was closed"))

    def _take_in(self, batch: Batch) -> bool:
        """Waits for work if there is none. False when it is time to stop."""
        with self._work:
            while batch.is_idle and not self._inbox and not self._closing:
                self._work.wait()
            while self._inbox:
                batch.add(self._inbox.popleft())
            return not self._closing

    def _loaded(self) -> Batch:
        loaded = self._load()
        self._context = loaded.model.config.get_text_config().max_position_embeddings
        fused = self._fused and is_fusible(loaded.model.config)
        decoder: Decoder = FusedDecoder(loaded.model) if fused else ModulesDecoder(loaded.model)
        return Batch(decoder, decode=loaded.decode, closing_ids=loaded.closing_ids, **self._limits)


def _give_up(batch: Batch, error: Exception) -> None:
    for job in batch.jobs:
        if not job.cancelled:
            job.on_done(error)
    batch.clear()


def _call(loop: asyncio.AbstractEventLoop, fn: Callable[..., None], *args: Any) -> None:
    """From the engine's thread. Where the loop has gone there is nobody left to tell."""
    if not loop.is_closed():
        loop.call_soon_threadsafe(fn, *args)
