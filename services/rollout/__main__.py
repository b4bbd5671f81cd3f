"""Start a rollout service: `python -m services.rollout`."""

import asyncio
import time
from functools import partial

from flash import process
from flash.models import folder, pool_of, serving
from flash.models.engines import chosen
from flash.models.lengths import measured
from flash.models.rendering import load_tokenizer
from services.rollout.adapters import Adapters
from services.rollout.engines.choice import engine_of
from services.rollout.prompts import follow, render
from services.rollout.readiness import Proved
from services.rollout.service import Player
from services.rollout.settings import Settings


async def serve(part: process.Process, settings: Settings) -> None:
    pool = pool_of(settings.model)
    await part.announce("rollout", pool=pool)
    place = folder(settings.model, settings.home)
    tokenizer = await asyncio.to_thread(load_tokenizer, place)
    choice = await asyncio.to_thread(chosen, settings.engine, settings.device)
    prompt = await asyncio.to_thread(render, tokenizer, [{"role": "user", "content": "Hello"}], False)
    engine = Proved(engine_of(settings, choice, place, tokenizer), prompt, settings.model)
    await engine.start()
    part.spawn(engine.watch())

    adapters = Adapters(part.store, settings.home / "cache" / "adapters", settings.adapter_cache_bytes)
    player = Player(
        part.bus,
        part.store,
        engine,
        partial(render, tokenizer),
        adapters,
        settings,
        pool,
        clock=time.monotonic,
        follow=partial(follow, tokenizer),
        measure=partial(measured, tokenizer),
    )
    about = serving(settings.model, place, settings.device)
    await part.answer("rollout", player.answers(), engine=choice.name, **about.metadata())
    await part.bus.listen(*player.subscriptions())


if __name__ == "__main__":
    process.main("rollout", Settings, serve)
