"""What every service does alike: settings, logging, signals, and running until it is told to stop."""

import asyncio
import logging
import os
import signal
import sys
import threading
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import structlog

from flash.access import Access
from flash.bus import Admit, Bus
from flash.config.settings import ServiceSettings
from flash.contracts.base import Request
from flash.contracts.catalogue import KEEPER
from flash.errors import BusError, ConfigError
from flash.redaction import guard, masked_line
from flash.store import Store, open_store

S = TypeVar("S", bound=ServiceSettings)
T = TypeVar("T")

HEALTH_S = 1.0
"""How often a service shows that it is well."""
HEALTH_WAIT_S = 5.0
"""How long its bus may take to answer."""
LAST_S = 8.0
"""How long a process may take to end beyond its grace: a bus that is away, or a thread at work, may hold it."""


@dataclass(frozen=True)
class Process:
    """What a service is given to work with."""

    bus: Bus
    store: Store
    replica: str
    spawn: Callable[[Coroutine[Any, Any, None]], None]
    """Run this beside the service until it stops; if it raises, the process ends."""
    admit: Admit

    async def announce(self, service: str, **metadata: str) -> None:
        """Be seen by whoever looks who is there, until `answer`: what follows may take minutes."""
        await self.bus.announce(service, replica=self.replica, **metadata)

    async def answer(
        self, service: str, answers: Mapping[type[Request], Callable[[Any], Any]], **metadata: str
    ) -> None:
        """Answer whoever may ask."""
        await self.bus.answer(service, answers, self.admit, replica=self.replica, **metadata)


def main(service: str, settings_type: type[S], serve: Callable[[Process, S], Awaitable[None]]) -> None:
    """Start a service and run it until SIGTERM or SIGINT, which may come early. `serve` sets it up and returns.

    Exits with 2 and one sentence when the settings cannot be used.
    """
    try:
        settings = settings_type.from_env()
        guard(settings.credentials)
        configure_logging(settings.log_level, service=service, replica=settings.replica)
        asyncio.run(_run(service, settings, serve))
    except ConfigError as error:
        sys.exit(f"{service}: {error}")


async def _run(service: str, settings: S, serve: Callable[[Process, S], Awaitable[None]]) -> None:
    from flash.bus.jetstream import connect

    log = structlog.get_logger()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    store = await open_store(settings.store_url)
    operator_token = settings.operator_token
    name = f"{service}:{settings.replica}"
    updates = service == KEEPER
    bus = await _unless(
        stop, connect(settings.nats_url, store, name=name, token=operator_token, updates_streams=updates)
    )
    if bus is None:
        return
    failed: list[BaseException] = []
    beside: set[asyncio.Task[None]] = set()

    def spawn(work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        beside.add(task)
        task.add_done_callback(ended)

    def ended(task: asyncio.Task[None]) -> None:
        beside.discard(task)
        if not task.cancelled() and (error := task.exception()):
            failed.append(error)
            stop.set()

    try:
        admit = Access(bus, operator_token).admit
        part = Process(bus=bus, store=store, replica=settings.replica, spawn=spawn, admit=admit)
        await _unless(stop, serve(part, settings))
        if not stop.is_set():
            log.info("service.ready")
            if settings.health_file:
                spawn(_show_health(settings.health_file, bus.connection.round_trip))
        await stop.wait()
    finally:
        log.info("service.stopping")
        _end_within(settings.grace_s + LAST_S, code=int(bool(failed) or sys.exc_info()[1] is not None))
        for task in list(beside):
            task.cancel()
        if settings.health_file:
            settings.health_file.unlink(missing_ok=True)
        await bus.close(settings.grace_s)
    if failed:
        raise failed[0]


async def _unless(stop: asyncio.Event, work: Awaitable[T]) -> T | None:
    """What the work gives; None where it was time to stop first."""
    working, stopping = asyncio.ensure_future(work), asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait((working, stopping), return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        working.cancel()
        stopping.cancel()


def _end_within(seconds: float, *, code: int) -> None:
    """Without waiting any longer for what cannot be interrupted: a model that is being loaded, say."""

    def end() -> None:
        structlog.get_logger().warning("service.cut-short", after_s=seconds)
        os._exit(code)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()


async def _show_health(file: Path, round_trip: Callable[[float], Awaitable[None]]) -> None:
    """Touch the file after each round trip to the bus: whoever finds it old knows that we hang or are cut off."""
    while True:
        with suppress(BusError):
            await round_trip(HEALTH_WAIT_S)
            await asyncio.to_thread(file.touch)
        await asyncio.sleep(HEALTH_S)


def configure_logging(level: str, **bound: str) -> None:
    """One JSON line an event on stderr, with `bound` in each."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
            masked_line,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    structlog.contextvars.bind_contextvars(**bound)
