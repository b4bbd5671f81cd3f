"""Start a scheduler: `python -m services.scheduler`."""

import shutil
import time
from functools import partial

from flash import process
from services.scheduler.service import Scheduler
from services.scheduler.settings import Settings


async def serve(part: process.Process, settings: Settings) -> None:
    scheduler = Scheduler(part.bus, part.store, settings, now=time.time, free_bytes=partial(free_bytes_of, settings))
    part.spawn(scheduler.watch())
    part.spawn(scheduler.look_around())
    await part.bus.listen(*scheduler.subscriptions())
    await part.answer("scheduler", scheduler.answers())


def free_bytes_of(settings: Settings) -> int | None:
    """Of the disk of `home`; None where nobody wants to know."""
    if not settings.min_free_bytes:
        return None
    try:
        return shutil.disk_usage(settings.home).free
    except OSError:
        return None


if __name__ == "__main__":
    process.main("scheduler", Settings, serve)
