"""Start a hub: `python -m services.hub`."""

import time

from flash import process
from services.hub.organisations import Organisations
from services.hub.service import Hub
from services.hub.settings import Settings


async def serve(part: process.Process, settings: Settings) -> None:
    hub = Hub(part.bus, part.store, settings, now=time.time)
    part.spawn(hub.keep_tidy())
    organisations = Organisations(part.bus.records("organisations"), settings.operator_token, now=time.time)
    await part.answer("hub", {**hub.answers(), **organisations.answers()})


if __name__ == "__main__":
    process.main("hub", Settings, serve)
