"""The bus of the stack that a command talks to."""

from argparse import Namespace
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from cli.stack import connection
from flash.bus import Bus
from flash.client import connect


@asynccontextmanager
async def stack(options: Namespace) -> AsyncIterator[Bus]:
    """Connected to the stack that FLASH_URL names, else to the one of this machine, until the block ends."""
    bus = await connect(lambda: connection(options.home), name="cli")
    try:
        yield bus
    finally:
        await bus.close(0)
