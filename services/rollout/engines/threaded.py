"""A thread with a model, drawing for everybody who asks. Only this file knows of threads."""

import asyncio
import atexit
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import Any, Protocol

import torch

from services.rollout.engines import Adapter, GenerationFailed, OnText, Sample, SampleRequest
from services.rollout.engines.rows import Job


class Drawing(Protocol):
    """Every sample that is being drawn, or waits for its place."""

    @property
    def is_idle(self) -> bool: ...
    @property
    def jobs(self) -> Collection[Job]: ...
    def add(self, job: Job) -> None: ...
    def load(self, adapter: Adapter) -> None:
        """Read the adapter into memory."""

    def step(self) -> None:
        """Draw on. Jobs that are done are told, those that were cancelled leave."""

    def clear(self) -> None:
        """Forget every job."""

    def sleep(self) -> None:
        """Give memory back until the next step. There are no jobs."""


class ThreadedEngine(ABC):
    """See `Engine`."""

    follows_schemas = False

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._context = 0
        self._inbox: deque[Job] = deque()
        self._expected: deque[Adapter] = deque()
        self._work = threading.Condition()
        self._closing = self._sleepy = False
        self._thread: threading.Thread | None = None

    @abstractmethod
    def _loaded(self) -> tuple[Drawing, int]:
        """Load the model, in the engine's thread. What draws with it, and the context it has."""

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
        max_tokens = room(request, self._context)
        if request.schema and not self.follows_schemas:
            raise GenerationFailed("the torch engine cannot hold answers to a JSON schema: set FLASH_ENGINE to vllm")
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[list[Sample]] = loop.create_future()

        def told(result: list[Sample] | BaseException) -> None:
            if not answer.done():
                answer.set_exception(result) if isinstance(result, BaseException) else answer.set_result(result)

        job = Job(
            request,
            max_tokens=max_tokens,
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

    def expect(self, adapter: Adapter) -> None:
        with self._work:
            self._expected.append(adapter)
            self._work.notify()

    async def sleep(self) -> None:
        with self._work:
            self._sleepy = True
            self._work.notify()

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
            drawing, self._context = self._loaded()
        except BaseException as error:
            ready(error)
            return
        ready(None)
        with torch.inference_mode():
            while self._take_in(drawing):
                while self._expected:
                    with suppress(Exception):  # whoever samples with it hears what is wrong
                        drawing.load(self._expected.popleft())
                try:
                    self._draw(drawing)
                except Exception as error:  # whatever torch raises: who asked must hear of it, and others go on
                    _give_up(drawing, error)
            _give_up(drawing, RuntimeError("the engine was closed"))

    def _draw(self, drawing: Drawing) -> None:
        sleepy, self._sleepy = self._sleepy, False
        if not drawing.is_idle:
            drawing.step()
        elif sleepy:
            drawing.sleep()

    def _take_in(self, drawing: Drawing) -> bool:
        """Waits for work if there is none. False when it is time to stop."""
        with self._work:
            while drawing.is_idle and not (self._inbox or self._expected or self._sleepy or self._closing):
                self._work.wait()
            while self._inbox:
                drawing.add(self._inbox.popleft())
            return not self._closing


def room(request: SampleRequest, context: int) -> int:
    """How many tokens each sample may have. Raises ValueError for a request that no model could answer."""
    left = context - len(request.prompt_ids)
    if not request.prompt_ids or not request.seeds or min(left, request.max_tokens) < 1:
        raise ValueError(
            f"{len(request.seeds)} samples of {request.max_tokens} tokens after a prompt of "
            f"{len(request.prompt_ids)}: each must be at least 1, and the context is {context}"
        )
    if not all(0 <= seed < 2**64 for seed in request.seeds):
        raise ValueError(f"seeds are {request.seeds}, but each must be from 0 to 2^64 - 1")
    return min(left, request.max_tokens)


def _give_up(drawing: Drawing, error: Exception) -> None:
    for job in drawing.jobs:
        if not job.cancelled:
            job.on_done(error)
    drawing.clear()


def _call(loop: asyncio.AbstractEventLoop, fn: Callable[..., None], *args: Any) -> None:
    """From the engine's thread. Where the loop has gone there is nobody left to tell."""
    if not loop.is_closed():
        loop.call_soon_threadsafe(fn, *args)
