"""Start a scorer: `python -m services.scorer`."""

import sys

import structlog

from flash import process
from flash.errors import ConfigError
from flash.host.sandbox import chosen
from services.scorer.service import Scorer
from services.scorer.settings import Settings


async def serve(part: process.Process, settings: Settings) -> None:
    layers = chosen()
    structlog.get_logger().info("sandbox.chosen", walls=layers.walls, layers=layers.names, missing=layers.missing)
    scorer = Scorer(part.bus, part.store, settings)
    part.spawn(scorer.keep_tidy())
    await part.answer("scorer", scorer.answers())
    await part.bus.listen(*scorer.subscriptions())


if __name__ == "__main__":
    try:
        chosen()  # tried once: `serve` is told the same
    except ConfigError as error:
        sys.exit(f"scorer: {error}")
    process.main("scorer", Settings, serve)
