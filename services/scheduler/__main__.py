"""Start a scheduler: `python -m services.scheduler`."""

import time
from functools import partial

from flash import process
from services.scheduler.service import Scheduler, free_bytes_of
from services.scheduler.settings import Settings


async def serve(part: process.Process, settings: Settings) -> None:
    scheduler = Scheduler(part.bus, part.store, settings, now=time.time, free_bytes=partial(free_bytes_of, settings))
    part.spawn(scheduler.watch())
    part.spawn(scheduler.look_around())
    await part.answer("scheduler", scheduler.answers())


if __name__ == "__main__":
    process.main("scheduler", Settings, serve)
