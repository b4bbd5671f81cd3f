"""The bus of the stack that a command talks to."""

import sys
from argparse import Namespace
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from cli import contexts, output
from cli.stack import connection, is_starting
from flash import client, logs
from flash.bus import Bus
from flash.client import connect
from flash.contracts.spec import RunSpec


@asynccontextmanager
async def stack(options: Namespace) -> AsyncIterator[Bus]:
    """Connected to the stack that FLASH_URL names, else that of the chosen context, until the block ends."""
    quiet(options)
    if notice := contexts.overruled(options):
        output.note(notice)
    _, context = contexts.chosen(options)
    bus = await connect(lambda: context.url or connection(options.home), token=context.token, name="cli")
    try:
        yield bus
    finally:
        await bus.close(0)


async def require_pool(bus: Bus, spec: RunSpec, options: Namespace) -> None:
    """Replicas serve the run's model; those of this machine that still load it are waited for.

    Raises NotFound, and FlashError for those that cannot load it.
    """

    def starting(services: Sequence[str]) -> bool:
        return is_starting(options.home, spec.pool, services)

    await client.require_pool(bus, spec, is_starting=starting, say=output.note)


def quiet(options: Namespace) -> None:
    """What the bus logs is for operators: on stderr, and with `--debug` only."""
    logs.silence(not options.debug)
    if not options.debug:
        return
    import structlog

    from flash.redaction import masked_line

    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            # Without the values of variables: secrets may be among them.
            structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback),
            masked_line,
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
