"""Start a scorer: `python -m services.scorer`."""

from flash import process
from services.scorer.service import Scorer
from services.scorer.settings import Settings


async def serve(part: process.Process, settings: Settings) -> None:
    scorer = Scorer(part.bus, part.store, settings)
    part.spawn(scorer.keep_tidy())
    await part.bus.answer("scorer", scorer.answers(), replica=part.replica)
    await part.bus.listen(*scorer.subscriptions())


if __name__ == "__main__":
    process.main("scorer", Settings, serve)
