"""vLLM in processes of its own: on GPUs, and wherever a model is spread over several devices.

Run by us on the CPU only, where the suite draws with it; on a GPU it has not been tried yet.
"""

import asyncio
import os
from contextlib import aclosing, suppress
from itertools import count
from typing import Any

from services.rollout.engines import Adapter, OnText, Sample, SampleRequest
from services.rollout.engines.rows import Job, Row
from services.rollout.engines.threaded import room
from services.rollout.engines.vllm import Options, check_plugin, parameters_of, prompt_of, refusals, take, unusable
from services.rollout.engines.vllm_adapters import Held
from services.rollout.engines.vllm_leash import LEASH


class AsyncVllmEngine:
    """See `Engine`."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._held = Held(options.folder, options.held_adapters)
        self._llm: Any = None
        self._names = map(str, count())
        self._loading = asyncio.Lock()
        self._left = asyncio.Event()
        """Somebody needs an adapter no longer."""
        self._turning = asyncio.Lock()
        self._drawing = 0
        self._sleeps = False
        self._beside: set[asyncio.Task[None]] = set()

    @property
    def context(self) -> int:
        return int(self._llm.model_config.max_model_len)

    async def start(self) -> None:
        os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "1", LEASH: "1"}
        self._llm = await asyncio.to_thread(self._started)

    def _started(self) -> Any:
        arguments = self._options.arguments()
        from vllm import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        llm = AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments))
        check_plugin(self._options)
        return llm

    async def sample(self, request: SampleRequest, on_text: OnText | None = None) -> list[Sample]:
        if self._llm is None:
            raise RuntimeError("the engine is not running")
        job = Job(request, max_tokens=room(request, self.context), on_done=lambda _: None, on_text=on_text)
        self._drawing += 1
        try:
            await self._wake()
            return await self._sampled(job)
        finally:
            self._drawing -= 1

    async def sleep(self) -> None:
        async with self._turning:
            if not self._drawing and not self._sleeps:
                self._sleeps = True
                await self._llm.sleep(1)

    async def _wake(self) -> None:
        async with self._turning:
            if self._sleeps:
                await self._llm.wake_up()
                self._sleeps = False

    async def _sampled(self, job: Job) -> list[Sample]:
        request = job.request
        lora = await self._borrow(request.adapter) if request.adapter else None
        try:
            async with asyncio.TaskGroup() as tasks:
                for index, parameters in enumerate(parameters_of(job, self._options)):
                    tasks.create_task(self._draw(Row(job, index, []), parameters, lora))
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None
        finally:
            if request.adapter:
                self._held.give_back(request.adapter)
                self._left.set()
        return [job.samples[index] for index in range(len(job.samples))]

    async def _draw(self, row: Row, parameters: Any, lora: Any | None) -> None:
        from vllm.v1.engine.exceptions import EngineDeadError

        drawing = self._llm.generate(prompt_of(row.job.request), parameters, next(self._names), lora_request=lora)
        try:
            with refusals():
                async with aclosing(drawing):  # a sample that has come to its end is drawn no further
                    async for output in drawing:
                        if take(row, output.outputs[0], self._options):
                            return
        except EngineDeadError as error:
            raise RuntimeError("vLLM has died") from error
        raise RuntimeError("the engine was closed")

    async def _borrow(self, adapter: Adapter) -> Any:
        while not self._held.knows(adapter):
            # To its end, whoever waits for it: what vLLM holds and what we think it holds must be the same.
            await asyncio.shield(self._load(adapter))
        return self._held.borrow(adapter)

    async def _load(self, adapter: Adapter) -> None:
        """Have vLLM load it, or wait until there may be room."""
        await asyncio.to_thread(self._held.check, adapter)
        async with self._loading:
            if self._held.knows(adapter):
                return
            if self._held.has_room():
                if (surplus := self._held.surplus()) is not None:
                    await self._llm.remove_lora(surplus.lora_int_id)
                try:
                    await self._llm.add_lora(self._held.introduce(adapter))
                except Exception as error:  # whatever vLLM finds wrong with it
                    self._held.forget(adapter)
                    raise unusable(adapter, error) from error
                return
            self._left.clear()
        await self._left.wait()

    def expect(self, adapter: Adapter) -> None:
        task = asyncio.ensure_future(self._expected(adapter))
        self._beside.add(task)
        task.add_done_callback(self._beside.discard)

    async def _expected(self, adapter: Adapter) -> None:
        with suppress(Exception):  # whoever samples with it hears what is wrong
            if self._held.knows(adapter) or self._held.has_room():
                await self._load(adapter)

    async def close(self) -> None:
        llm, self._llm = self._llm, None
        for task in self._beside:
            task.cancel()
        if llm is not None:
            await asyncio.to_thread(llm.shutdown)
