"""One GPU for rollouts and learner: what nothing is drawn with gives its memory back."""

import asyncio

import structlog

from services.rollout.engines import Adapter, Engine, OnText, Sample, SampleRequest

log = structlog.get_logger()


class Sleeping:
    """An engine that goes to sleep when nothing was drawn for a while, and wakes when somebody asks. See `Engine`."""

    def __init__(self, engine: Engine, after_s: float) -> None:
        self._engine = engine
        self._after_s = after_s
        self._drawing = 0
        self._tired = asyncio.Event()
        self._watching: asyncio.Task[None] | None = None

    @property
    def context(self) -> int:
        return self._engine.context

    async def start(self) -> None:
        await self._engine.start()
        self._watching = asyncio.create_task(self._watch())

    async def sample(self, request: SampleRequest, on_text: OnText | None = None) -> list[Sample]:
        self._drawing += 1
        try:
            return await self._engine.sample(request, on_text)
        finally:
            self._drawing -= 1
            self._tired.set()

    def expect(self, adapter: Adapter) -> None:
        if self._drawing:  # else it sleeps, or is about to
            self._engine.expect(adapter)

    async def sleep(self) -> None:
        await self._engine.sleep()

    async def close(self) -> None:
        if self._watching:
            self._watching.cancel()
        await self._engine.close()

    async def _watch(self) -> None:
        while True:
            await self._tired.wait()
            self._tired.clear()
            await asyncio.sleep(self._after_s)
            if self._drawing or self._tired.is_set():
                continue
            try:
                await self._engine.sleep()
            except Exception:  # whoever samples next hears what is wrong with the engine
                log.exception("engine.sleepless")
