"""Archives on their way in: their parts, in the store until they are published, whichever replica takes them."""

import asyncio
import hashlib
import re
from collections.abc import Callable
from pathlib import Path

import structlog

from flash.artifacts import over_packed
from flash.contracts.environments import EnvironmentOffer, slug
from flash.contracts.keys import UPLOAD_PART_BYTES, upload_folder, upload_key
from flash.contracts.requests import EnvironmentPublish, EnvironmentUpload
from flash.errors import NoSuchObject, Refused
from flash.records import Records
from flash.store import Store
from flash.store.whole import whole_file
from services.hub.settings import Settings

_DIGEST = re.compile(r"[0-9a-f]{64}")

log = structlog.get_logger()


class PartMissing(Exception):
    """Which part of an archive was never uploaded."""


class Uploads:
    """What was begun and never ended is forgotten after a while: the records know when each began."""

    def __init__(self, store: Store, records: Records, settings: Settings, now: Callable[[], float]) -> None:
        self._store = store
        self._records = records
        self._settings = settings
        self._now = now

    async def missing(self, offer: EnvironmentOffer) -> list[int]:
        """Which parts have not come yet. Raises Refused for an archive that is too large."""
        self.check_digest(offer.digest)
        if offer.num_bytes < 1:
            raise Refused(f"an archive of {offer.num_bytes} bytes cannot be: push again")
        self._check_size(offer.num_bytes)
        began = f"{self._now():.0f}".encode()
        await self._records.update(_record(offer.org, offer.environment, offer.digest), lambda _: began)
        folder = upload_folder(offer.org, offer.environment, offer.digest)
        there = {stat.key async for stat in self._store.list(folder)}
        parts = range(-(-offer.num_bytes // UPLOAD_PART_BYTES))
        return [n for n in parts if upload_key(offer.org, offer.environment, offer.digest, n) not in there]

    async def keep(self, upload: EnvironmentUpload) -> None:
        """Keep one part until the archive is published."""
        self.check_digest(upload.digest)
        if not 0 < len(upload.data) <= UPLOAD_PART_BYTES:
            raise Refused(f"a part has {len(upload.data):,} bytes, but 1 to {UPLOAD_PART_BYTES:,} are wanted")
        if upload.part < 0:
            raise Refused(f"part {upload.part} of an archive cannot be: the first part is 0")
        self._check_size(upload.part * UPLOAD_PART_BYTES + len(upload.data))
        key = upload_key(upload.org, upload.environment, upload.digest, upload.part)
        await self._store.put(key, upload.data)

    async def put_together(self, asked: EnvironmentPublish, into: Path) -> int:
        """The archive as a file; gives its size.

        Raises PartMissing for one that is not there, and Refused, and forgets all, where it is not what was told.
        """
        self._check_size((asked.parts - 1) * UPLOAD_PART_BYTES)  # of each part it was checked when it came
        digest = hashlib.sha256()
        with whole_file(into) as file:
            for part in range(asked.parts):
                try:
                    data = await self._store.get(upload_key(asked.org, asked.environment, asked.digest, part))
                except NoSuchObject as error:
                    raise PartMissing(f"part {part + 1} of {asked.parts} was never uploaded") from error
                await asyncio.to_thread(file.write, data)
                digest.update(data)
        if (found := digest.hexdigest()) != asked.digest:
            await self.forget(asked.org, asked.environment, asked.digest)
            told = f"but {asked.digest[:12]} was told"
            raise Refused(f"the uploaded archive has the digest {found[:12]}, {told}: push again")
        return file.num_bytes

    async def forget(self, org: str, environment: str, digest: str) -> None:
        for stat in [stat async for stat in self._store.list(upload_folder(org, environment, digest))]:
            await self._store.delete(stat.key)
        await self._records.update(_record(org, environment, digest), lambda _: None)

    async def keep_tidy(self) -> None:
        """Forget what nobody went on with, for ever."""
        while True:
            await self.tidy()
            await asyncio.sleep(self._settings.upload_kept_s / 24)

    async def tidy(self) -> None:
        for record, began in (await self._records.all()).items():
            if self._now() - float(began) > self._settings.upload_kept_s:
                org, name, digest = record.split(".")
                await self.forget(org, name.replace("_2E", "."), digest)
                log.info("upload.forgotten", org=org, digest=digest[:12])

    def check_digest(self, digest: str) -> None:
        if not _DIGEST.fullmatch(digest):
            raise Refused(f"the digest is {digest[:80]!r}, but the sha256 of the archive, 64 hex digits, is wanted")

    def _check_size(self, num_bytes: int) -> None:
        limits = self._settings.archive_limits
        if num_bytes > limits.packed_bytes:
            raise Refused(str(over_packed("the archive", limits)))


def _record(org: str, environment: str, digest: str) -> str:
    return f"{org}.{slug(environment)}.{digest}"
