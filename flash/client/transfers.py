"""Bringing an environment's folder to the hub, and getting it back."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from flash.artifacts import Packed, pack, unpack
from flash.bus import Bus
from flash.client.asking import Say, ask, sealed_for_archive, silence
from flash.contracts.keys import UPLOAD_PART_BYTES
from flash.contracts.requests import EnvironmentFetch, EnvironmentPublish, EnvironmentUpload, EnvironmentVersion

Progress = Callable[[int, int], object]
"""Called with bytes done and bytes in all."""


def _unseen(done_bytes: int, total_bytes: int) -> None: ...


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
    packed = await asyncio.to_thread(pack, folder)
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
    """Upload an archive part by part, then publish it; waits, and says so, while no hub or no scorer is up.

    It is checked with `params`, `pip`, `worker_env` and `secrets`, which are no part of the version.

    Raises EnvironmentFault with the author's traceback when the package cannot be used, Refused when the hub says no.
    """
    parts = range(0, len(packed.data), UPLOAD_PART_BYTES)
    for part, start in enumerate(parts):
        data = packed.data[start : start + UPLOAD_PART_BYTES]
        upload = EnvironmentUpload(digest=packed.digest, part=part, data=data)
        await ask(bus, upload, timeout_s=30.0, patience_s=patience_s, say=say)
        progress(start + len(data), len(packed.data))
    publish = EnvironmentPublish(
        org=bus.org,
        environment=name,
        digest=packed.digest,
        parts=len(parts),
        params=dict(params),
        pip=list(pip),
        worker_env=dict(worker_env),
        sealed=await sealed_for_archive(bus, packed.digest, secrets, say=say),
    )
    version: EnvironmentVersion = await ask(bus, publish, timeout_s=check_s, patience_s=patience_s, say=say)
    return version


async def fetch_environment(
    bus: Bus, version: EnvironmentVersion, into: Path, *, progress: Progress = _unseen, part_s: float = 30.0
) -> None:
    """Lay the files of a version into a folder that is not there yet. Raises Damaged for other bytes than published."""
    archive = bytearray()
    async for part in bus.stream(EnvironmentFetch(reference=f"{version.id}@{version.version}"), part_s):
        archive += part.data
        progress(len(archive), version.packed_bytes)
    await asyncio.to_thread(unpack, bytes(archive), into, version.digest)
