"""Rollouts of a run, as the recorder finds them."""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import msgspec

from flash.bus import Bus
from flash.contracts.record import RolloutsExport, RolloutsFind, RolloutsPage
from flash.errors import Refused

FIND_S = 60.0
EXPORT_S = 900.0
"""How long the recorder may take to put a file together before it sends the first part."""


async def find_rollouts(bus: Bus, asked: RolloutsFind) -> RolloutsPage:
    """As many as are asked for, in as many answers as it takes. Raises NotFound, and Refused for a bad condition."""
    page: RolloutsPage = await bus.ask(asked, FIND_S)
    found = list(page.rollouts)
    while page.rollouts and len(found) < min(asked.limit, page.total - asked.offset):
        onwards = {"offset": asked.offset + len(found), "limit": asked.limit - len(found)}
        page = await bus.ask(msgspec.structs.replace(asked, **onwards), FIND_S)
        found += page.rollouts
    return RolloutsPage(rollouts=found, total=page.total)


async def export_rollouts(
    bus: Bus, asked: RolloutsExport, folder: Path, progress: Callable[[int], object] = lambda _: None
) -> Path:
    """One Parquet file in a folder, whole or not at all. Raises Refused where there is one already."""
    path = folder / "rollouts.parquet"
    if path.exists():
        raise Refused(f"{path} is there already: move it away, or export into another folder")
    await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
    coming = folder / f".{path.name}.{os.getpid()}"
    try:
        with coming.open("wb") as file:
            async for part in bus.stream(asked, EXPORT_S):
                await asyncio.to_thread(file.write, part.data)
                progress(file.tell())
        coming.rename(path)
    finally:
        coming.unlink(missing_ok=True)
    return path
