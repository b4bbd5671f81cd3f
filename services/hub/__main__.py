"""Start a hub: `python -m services.hub`."""

import time

from flash import process
from flash.bus.jetstream import JetStreamBus
from flash.bus.jetstream.logins import answer_logins
from services.hub.organisations import Organisations
from services.hub.service import Hub
from services.hub.settings import Settings


async def serve(part: process.Process, settings: Settings) -> None:
    hub = Hub(part.bus, part.store, settings, now=time.time)
    part.spawn(hub.keep_tidy())
    organisations = Organisations(part.bus.records("organisations"), settings.operator_token, now=time.time)
    await part.answer("hub", {**hub.answers(), **organisations.answers()})
    if settings.login_seed:
        assert isinstance(part.bus, JetStreamBus)
        await answer_logins(part.bus.connection, settings.login_seed, organisations.check)


if __name__ == "__main__":
    process.main("hub", Settings, serve)
