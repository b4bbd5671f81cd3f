"""Start a scheduler: `python -m services.scheduler`."""

import time

from flash import process
from services.scheduler.service import Scheduler
from services.scheduler.settings import Settings


async def serve(part: process.Process, settings: Settings) -> None:
    scheduler = Scheduler(part.bus, part.store, settings, now=time.time)
    part.spawn(scheduler.watch())
    await part.answer("scheduler", scheduler.answers())


if __name__ == "__main__":
    process.main("scheduler", Settings, serve)
