"""Bringing an environment's folder to the hub, and getting it back: in parts, and after a break from where it was."""

import asyncio
import fcntl
import os
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO

from flash.artifacts import Packed, pack, unpack
from flash.bus import Bus
from flash.client.asking import Say, ask, gathered, sealed_for_archive, silence
from flash.contracts.environments import ArchiveLimits, EnvironmentLimits, EnvironmentOffer, WantedParts
from flash.contracts.keys import UPLOAD_PART_BYTES
from flash.contracts.requests import EnvironmentFetch, EnvironmentPublish, EnvironmentUpload, EnvironmentVersion
from flash.errors import Damaged

IN_FLIGHT = 4
"""Parts that are on their way at a time."""

Progress = Callable[[int, int], object]
"""Called with bytes done and bytes in all."""


def _unseen(done_bytes: int, total_bytes: int) -> None: ...


async def archive_limits(bus: Bus, *, patience_s: float = 600.0, say: Say = silence) -> ArchiveLimits:
    """How large an environment may be that is published there."""
    limits: ArchiveLimits = await ask(bus, EnvironmentLimits(), patience_s=patience_s, say=say)
    return limits


async def publish_environment(
    bus: Bus,
    folder: Path,
    name: str,
    *,
    progress: Progress = _unseen,
    say: Say = silence,
    patience_s: float = 600.0,
    params: Mapping[str, Any] = MappingProxyType({}),
    pip: Sequence[str] = (),
) -> EnvironmentVersion:
    """Pack a folder, or a single file, and make it a version of the environment `org/name`."""
    limits = await archive_limits(bus, patience_s=patience_s, say=say)
    packed = await asyncio.to_thread(pack, folder, limits)
    return await publish_packed(
        bus, packed, name, progress=progress, say=say, patience_s=patience_s, params=params, pip=pip
    )


async def publish_packed(
    bus: Bus,
    packed: Packed,
    name: str,
    *,
    progress: Progress = _unseen,
    say: Say = silence,
    check_s: float = 180.0,
    patience_s: float = 600.0,
    params: Mapping[str, Any] = MappingProxyType({}),
    pip: Sequence[str] = (),
    worker_env: Mapping[str, str] = MappingProxyType({}),
    secrets: Mapping[str, str] = MappingProxyType({}),
) -> EnvironmentVersion:
    """Upload what the hub has not of an archive, then publish it; waits, and says so, while no hub or scorer is up.

    It is checked with `params`, `pip`, `worker_env` and `secrets`, which are no part of the version.

    Raises EnvironmentFault with the author's traceback when the package cannot be used, Refused when the hub says no.
    """
    offer = EnvironmentOffer(org=bus.org, environment=name, digest=packed.digest, num_bytes=packed.num_bytes)
    wanted: WantedParts = await ask(bus, offer, patience_s=patience_s, say=say)

    async def upload(part: int, data: bytes) -> None:
        request = EnvironmentUpload(org=bus.org, environment=name, digest=packed.digest, part=part, data=data)
        await ask(bus, request, timeout_s=30.0, patience_s=patience_s, say=say)

    await _upload(packed, wanted.parts, upload, progress)
    publish = EnvironmentPublish(
        org=bus.org,
        environment=name,
        digest=packed.digest,
        parts=-(-packed.num_bytes // UPLOAD_PART_BYTES),
        params=dict(params),
        pip=list(pip),
        worker_env=dict(worker_env),
        sealed=await sealed_for_archive(bus, packed.digest, secrets, say=say),
    )
    version: EnvironmentVersion = await ask(bus, publish, timeout_s=check_s, patience_s=patience_s, say=say)
    return version


async def fetch_environment(
    bus: Bus,
    version: EnvironmentVersion,
    into: Path,
    *,
    progress: Progress = _unseen,
    part_s: float = 30.0,
    patience_s: float = 30.0,
    say: Say = silence,
) -> None:
    """Lay the files of a version into a folder, unless it is there; what a break left beside it is gone on with.

    Raises Damaged for other bytes than published.
    """
    async with _alone(into.with_name(f".{into.name}.part")) as archive:
        if await asyncio.to_thread(into.is_dir):
            return
        done = archive.seek(0, os.SEEK_END)
        while done < version.packed_bytes:
            stretch = EnvironmentFetch(reference=f"{version.id}@{version.version}", start=done)
            parts = await gathered(bus, stretch, timeout_s=part_s, patience_s=patience_s, say=say)
            data = b"".join(part.data for part in parts)
            if not data:
                raise Damaged(f"the archive of {version.id}@{version.version} ends after {done:,} bytes: push it again")
            await asyncio.to_thread(archive.write, data)
            done += len(data)
            progress(done, version.packed_bytes)
        limits = ArchiveLimits(packed_bytes=done, unpacked_bytes=1 << 40, members=1 << 30)  # the hub has let it in
        try:
            await asyncio.to_thread(unpack, archive, into, version.digest, limits)
        finally:
            os.unlink(archive.name)


async def _upload(packed: Packed, wanted: Sequence[int], upload: Any, progress: Progress) -> None:
    """These parts, a few at a time; as many are in memory."""
    total = -(-packed.num_bytes // UPLOAD_PART_BYTES)
    done = total - len(wanted)

    def told() -> None:
        progress(min(done * UPLOAD_PART_BYTES, packed.num_bytes), packed.num_bytes)

    async def carry(parts: Iterable[int]) -> None:
        nonlocal done
        for part in parts:
            await upload(part, await asyncio.to_thread(packed.part, part * UPLOAD_PART_BYTES, UPLOAD_PART_BYTES))
            done += 1
            told()

    told()
    waiting = iter(wanted)
    carriers = [asyncio.create_task(carry(waiting)) for _ in range(IN_FLIGHT)]
    try:
        await asyncio.gather(*carriers)
    finally:
        for carrier in carriers:
            carrier.cancel()


@asynccontextmanager
async def _alone(path: Path) -> AsyncIterator[BinaryIO]:
    """A file to go on with, and nobody else at it meanwhile."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab+") as file:
        await asyncio.to_thread(fcntl.flock, file, fcntl.LOCK_EX)
        yield file
