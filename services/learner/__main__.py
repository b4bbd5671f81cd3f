"""Start a learner: `python -m services.learner`."""

import asyncio
from functools import partial

import torch

from flash import process
from flash.contracts.values import Example
from flash.models import folder, pool_of, serving
from flash.models.rendering import load_tokenizer, sft_ids
from services.learner.policy import Base
from services.learner.service import Learner
from services.learner.settings import Settings


async def serve(part: process.Process, settings: Settings) -> None:
    torch.set_num_threads(settings.threads)
    pool = pool_of(settings.model)
    await part.announce("learner", pool=pool)
    place = folder(settings.model, settings.home)
    tokenizer = await asyncio.to_thread(load_tokenizer, place)
    load = partial(Base.load, place, settings.model, settings.device, shares_gpu=settings.share_gpu)
    base = await asyncio.to_thread(load)

    def render(example: Example, thinking: bool) -> tuple[list[int], list[int]]:
        return sft_ids(tokenizer, example.messages, example.completion or [], thinking=thinking)

    learner = Learner(part.bus, part.store, base, render, settings, pool)
    about = serving(settings.model, place, settings.device)
    await part.answer("learner", learner.answers(), **about.metadata())
    await part.bus.listen(*learner.subscriptions())


if __name__ == "__main__":
    process.main("learner", Settings, serve)
