"""Start a recorder: `python -m services.recorder`."""

import time

from flash import process
from services.recorder.service import Recorder
from services.recorder.settings import Settings


async def serve(part: process.Process, settings: Settings) -> None:
    recorder = Recorder(part.bus, part.store, settings, now=time.time)
    part.spawn(recorder.watch())
    await part.answer("recorder", recorder.answers())
    await part.bus.listen(*recorder.subscriptions())


if __name__ == "__main__":
    process.main("recorder", Settings, serve)
