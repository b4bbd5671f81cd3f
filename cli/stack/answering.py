"""Which parts of a running stack do their work."""

import asyncio
import re
from collections.abc import Collection, Sequence
from contextlib import suppress
from urllib.parse import urlsplit

from cli.stack.parts import Part
from flash.bus import Bus
from flash.errors import FlashError

_LOOK_S = 3.0
"""How long one look may take."""


class Answering:
    """Asks nats-server and the S3 server themselves, and the bus for the services."""

    def __init__(self, parts: Sequence[Part], *, nats_url: str, store_health_url: str) -> None:
        self._services = {part.name for part in parts}
        self._nats_url = nats_url
        self._store_health_url = store_health_url
        self._bus: Bus | None = None

    async def names(self) -> Collection[str]:
        infra = [
            name
            for name, is_well in (("nats", self._nats_is_well()), ("store", self._store_is_well()))
            if await is_well
        ]
        if "nats" not in infra:
            return infra
        with suppress(FlashError, TimeoutError):
            async with asyncio.timeout(_LOOK_S):
                if self._bus is None:
                    self._bus = await self._connect()
                return [*infra, *(r.id for r in await self._bus.replicas() if r.id in self._services)]
        return infra

    async def close(self) -> None:
        if self._bus:
            with suppress(FlashError, TimeoutError):
                async with asyncio.timeout(_LOOK_S):
                    await self._bus.close(0)

    async def _connect(self) -> Bus:
        from flash.bus.jetstream import connect
        from flash.store.memory import MemoryStore

        return await connect(self._nats_url, MemoryStore(), name="supervisor", asks_only=True)

    async def _nats_is_well(self) -> bool:
        return (await _first_line(self._nats_url, b"")).startswith("INFO ")

    async def _store_is_well(self) -> bool:
        url = urlsplit(self._store_health_url)
        ask = f"GET {url.path} HTTP/1.1\r\nHost: {url.netloc}\r\nConnection: close\r\n\r\n"
        return bool(re.match(r"HTTP/1\.\d 200 ", await _first_line(self._store_health_url, ask.encode())))


async def _first_line(url: str, ask: bytes) -> str:
    """What a server says first, after `ask`; nothing when there is none."""
    parts = urlsplit(url)
    try:
        async with asyncio.timeout(_LOOK_S):
            reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
            try:
                writer.write(ask)
                return (await reader.readline()).decode(errors="replace")
            finally:
                writer.close()
    except (OSError, TimeoutError, ValueError):
        return ""
