"""Start a recorder: `python -m services.recorder`."""

from flash import process
from services.recorder.service import Recorder
from services.recorder.settings import Settings


async def serve(part: process.Process, settings: Settings) -> None:
    await part.bus.answer("recorder", Recorder(part.bus, settings).answers(), replica=part.replica)


if __name__ == "__main__":
    process.main("recorder", Settings, serve)
