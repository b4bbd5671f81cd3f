"""The bus of the stack that a command talks to."""

import logging
import sys
from argparse import Namespace
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog

from cli.stack import connection
from flash.bus import Bus
from flash.client import connect


@asynccontextmanager
async def stack(options: Namespace) -> AsyncIterator[Bus]:
    """Connected to the stack that FLASH_URL names, else to the one of this machine, until the block ends."""
    _quiet(options)
    bus = await connect(lambda: connection(options.home), name="cli")
    try:
        yield bus
    finally:
        await bus.close(0)


def _quiet(options: Namespace) -> None:
    """What the bus logs is for operators: on stderr, and with `--debug` only."""
    level = logging.DEBUG if options.debug else logging.CRITICAL
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
