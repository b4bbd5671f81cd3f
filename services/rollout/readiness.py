"""Ready means that a real generation was made, and stays so."""

import asyncio
import math

import structlog

from flash.errors import ConfigError
from services.rollout.engines import Adapter, Engine, GenerationFailed, OnText, Sample, SampleRequest
from services.rollout.prompts import Prompt

log = structlog.get_logger()


class Proved:
    """An engine that must say something before it is used, and again when it has failed in a way no request explains.

    Where a GPU is lost, every request fails at once; a replica that failed so quickly would draw its pool's work to it.
    """

    def __init__(self, engine: Engine, prompt: Prompt, model: str) -> None:
        self._engine = engine
        self._prompt = prompt
        self._model = model
        self._suspected = asyncio.Event()

    @property
    def context(self) -> int:
        return self._engine.context

    async def start(self) -> None:
        """Raises ConfigError, with the reason, where the engine does not start or cannot generate."""
        try:
            await self._engine.start()
        except Exception as error:  # whatever loading raises: without it this process is of no use
            raise self._useless(error) from error
        await self._prove()

    async def watch(self) -> None:
        """Run beside the service; raises ConfigError once the engine cannot generate any more."""
        while True:
            await self._suspected.wait()
            self._suspected.clear()
            await self._prove()

    async def sample(self, request: SampleRequest, on_text: OnText | None = None) -> list[Sample]:
        try:
            return await self._engine.sample(request, on_text)
        except (GenerationFailed, ValueError):
            raise  # of this request
        except Exception:
            self._suspected.set()
            raise

    def expect(self, adapter: Adapter) -> None:
        self._engine.expect(adapter)

    async def sleep(self) -> None:
        await self._engine.sleep()

    async def close(self) -> None:
        await self._engine.close()

    async def _prove(self) -> None:
        request = SampleRequest(prompt_ids=self._prompt.ids, seeds=(0,), temperature=1.0, max_tokens=4)
        try:
            [sample] = await self._engine.sample(request)
        except Exception as error:  # likewise
            raise self._useless(error) from error
        if not sample.token_ids or not all(map(math.isfinite, sample.logprobs)):
            raise ConfigError(f"{self._model} cannot generate here: it says nothing, or not with finite probabilities")

    def _useless(self, error: Exception) -> ConfigError:
        log.exception("engine.failed", model=self._model)
        return ConfigError(f"{self._model} cannot generate here: {type(error).__name__}: {error}")
