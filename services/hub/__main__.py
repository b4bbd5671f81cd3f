"""Start a hub: `python -m services.hub`."""

import time

from flash import process
from services.hub.service import Hub
from services.hub.settings import Settings


async def serve(part: process.Process, settings: Settings) -> None:
    hub = Hub(part.bus, part.store, part.bus.records("environments"), settings, now=time.time)
    await part.bus.answer("hub", hub.answers(), replica=part.replica)


if __name__ == "__main__":
    process.main("hub", Settings, serve)
