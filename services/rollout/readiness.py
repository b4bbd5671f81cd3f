"""Ready means that a real generation was made."""

import math

import structlog

from flash.errors import ConfigError
from services.rollout.engines import Engine, Sample, SampleRequest
from services.rollout.prompts import Prompt

log = structlog.get_logger()


async def prove(engine: Engine, prompt: Prompt, model: str) -> None:
    """Start the engine, and have it say something. Raises ConfigError, with the reason, where it cannot."""
    try:
        await engine.start()
        samples = await engine.sample(SampleRequest(prompt_ids=prompt.ids, seeds=(0,), temperature=1.0, max_tokens=4))
    except Exception as error:  # whatever an engine raises: without it this process is of no use
        log.exception("engine.failed", model=model)
        raise ConfigError(f"{model} cannot generate here: {type(error).__name__}: {error}") from error
    if not any(map(_is_real, samples)):
        raise ConfigError(f"{model} cannot generate here: it says nothing, or with probabilities that are not finite")


def _is_real(sample: Sample) -> bool:
    return bool(sample.token_ids) and all(map(math.isfinite, sample.logprobs))
