"""The hub: takes archives in, has them checked, and gives each its version."""

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import msgspec
import structlog

from flash.bus import Bus
from flash.contracts.base import Request
from flash.contracts.environments import EnvironmentPublished, slug
from flash.contracts.keys import UPLOAD_PART_BYTES, environment_key, upload_key
from flash.contracts.requests import (
    CheckReport,
    Done,
    EnvironmentCheck,
    EnvironmentFetch,
    EnvironmentList,
    EnvironmentListing,
    EnvironmentPart,
    EnvironmentPublish,
    EnvironmentResolve,
    EnvironmentUpload,
    EnvironmentVersion,
)
from flash.errors import EnvironmentFault, NobodyAnswers, NoSuchObject, Refused
from flash.records import Records
from flash.store import Store
from services.hub import versions
from services.hub.settings import Settings

_DIGEST = re.compile(r"[0-9a-f]{64}")
_CONTRACT = ("contract_text", "contract_path")

log = structlog.get_logger()


class Hub:
    """Publishing twice, or again after a lost reply, gives the same version."""

    def __init__(self, bus: Bus, store: Store, records: Records, settings: Settings, now: Callable[[], float]) -> None:
        self._bus = bus
        self._store = store
        self._records = records
        self._settings = settings
        self._now = now

    def answers(self) -> Mapping[type[Request], Callable[[Any], Any]]:
        return {
            EnvironmentUpload: self.on_environment_upload,
            EnvironmentPublish: self.on_environment_publish,
            EnvironmentResolve: self.on_environment_resolve,
            EnvironmentList: self.on_environment_list,
            EnvironmentFetch: self.on_environment_fetch,
        }

    async def on_environment_upload(self, request: EnvironmentUpload) -> Done:
        """Keep one part until the archive is published."""
        self._require_digest(request.digest)
        if not 0 < len(request.data) <= UPLOAD_PART_BYTES:
            raise Refused(f"a part has {len(request.data):,} bytes, but 1 to {UPLOAD_PART_BYTES:,} are wanted")
        self._require_place(request.part)
        await self._store.put(upload_key(request.digest, request.part), request.data)
        return Done()

    async def on_environment_publish(self, request: EnvironmentPublish) -> EnvironmentVersion:
        """Make the uploaded parts a version of the environment, if a scorer can load them."""
        self._require_digest(request.digest)
        record = versions.record_id(request.org, request.environment)
        version = versions.known(await self._records.get(record), request.digest)
        if version is None:
            version = await self._taken_in(request)
        elif version.notes:
            version = await self._looked_at_again(request, version)
        await self._records.update(record, lambda document: versions.published(document, version))
        await self._bus.publish(_environment_published(request, version))
        await self._forget_upload(request.digest)
        log.info("environment.published", environment=version.id, version=version.version)
        return version

    async def on_environment_resolve(self, request: EnvironmentResolve) -> EnvironmentVersion:
        org, _, name = request.reference.partition("@")[0].partition("/")
        if not org or not name:
            raise Refused(f"{request.reference!r} is no environment: an id is org/name or org/name@version")
        documents = await self._records.all()
        others = [version.id for version in versions.newest(documents.values())]
        return versions.chosen(documents.get(versions.record_id(org, name)), request.reference, others)

    async def on_environment_list(self, request: EnvironmentList) -> EnvironmentListing:
        found = versions.newest((await self._records.all()).values())
        mine = [version for version in found if version.id.startswith(f"{request.org}/")]
        return EnvironmentListing(environments=sorted(mine, key=lambda version: version.id))

    async def on_environment_fetch(self, request: EnvironmentFetch) -> AsyncIterator[EnvironmentPart]:
        """The archive as it was published, in parts that fit into messages."""
        version = await self.on_environment_resolve(EnvironmentResolve(reference=request.reference))
        archive = await self._store.get(version.key)
        for start in range(0, len(archive), UPLOAD_PART_BYTES):
            yield EnvironmentPart(data=archive[start : start + UPLOAD_PART_BYTES])

    async def _taken_in(self, request: EnvironmentPublish) -> EnvironmentVersion:
        """Put the parts together, have a scorer look at them, and keep the archive."""
        archive = await self._assembled(request)
        # Behind its own parts until a scorer has found it sound: what lies under a version's key is a version.
        whole = upload_key(request.digest, request.parts)
        await self._store.put(whole, archive)
        report = await self._checked(request, whole)
        version = versions.version_of(request.digest)
        key = environment_key(request.org, request.environment, version)
        await self._store.put(key, archive)
        return EnvironmentVersion(
            id=f"{request.org}/{request.environment}",
            version=version,
            digest=request.digest,
            key=key,
            packed_bytes=len(archive),
            published_at=self._now(),
            rows=report.rows,
            prompt_text=report.prompt_text,
            notes=report.notes,
        )

    async def _looked_at_again(self, request: EnvironmentPublish, version: EnvironmentVersion) -> EnvironmentVersion:
        """Something could not be validated when it was published; what it needs may be there now."""
        report = await self._checked(request, version.key)
        if report.notes:
            return version
        return msgspec.structs.replace(version, rows=report.rows, prompt_text=report.prompt_text, notes=[])

    async def _assembled(self, request: EnvironmentPublish) -> bytes:
        parts: list[bytes] = []
        self._require_place(request.parts - 1)
        for part in range(request.parts):
            try:
                parts.append(await self._store.get(upload_key(request.digest, part)))
            except NoSuchObject as error:
                raise Refused(f"part {part + 1} of {request.parts} was never uploaded: push again") from error
        archive = b"".join(parts)
        if len(archive) > self._settings.max_packed_bytes:
            await self._forget_upload(request.digest)
            raise self._too_large()
        digest = await asyncio.to_thread(lambda: hashlib.sha256(archive).hexdigest())
        if digest != request.digest:
            await self._forget_upload(request.digest)
            raise Refused(f"the uploaded archive has the digest {digest}, but {request.digest} was told: push again")
        return archive

    async def _checked(self, request: EnvironmentPublish, key: str) -> CheckReport:
        """What a scorer finds. Raises EnvironmentFault, with the author's traceback, for a fault of the package."""
        # What a version says of itself is the same whatever it is loaded with: its system text is its own.
        params = {name: value for name, value in request.params.items() if name not in _CONTRACT}
        report = await self._ask_scorer(
            EnvironmentCheck(
                key=key,
                digest=request.digest,
                params=params,
                pip=request.pip,
                worker_env=request.worker_env,
                sealed=request.sealed,
            )
        )
        if report.fault:
            await self._forget_upload(request.digest)
            traceback = f"\n{report.fault.traceback.rstrip()}" if report.fault.traceback else ""
            raise EnvironmentFault(f"{request.environment} cannot be loaded: {report.fault.message}{traceback}")
        return report

    async def _ask_scorer(self, check: EnvironmentCheck) -> CheckReport:
        # Looked for first: a request waits for a replica, and whoever pushes should hear soon why nothing happens.
        if not any(replica.service == "scorer" for replica in await self._bus.replicas()):
            raise NobodyAnswers("no scorer is up to check the environment")
        report: CheckReport = await self._bus.ask(check, self._settings.check_timeout_s)
        return report

    async def _forget_upload(self, digest: str) -> None:
        prefix = upload_key(digest, 0).removesuffix(f"{0:06d}")
        for stat in [stat async for stat in self._store.list(prefix)]:
            await self._store.delete(stat.key)

    def _require_digest(self, digest: str) -> None:
        if not _DIGEST.fullmatch(digest):
            raise Refused(f"the digest is {digest[:80]!r}, but the sha256 of the archive, 64 hex digits, is wanted")

    def _require_place(self, part: int) -> None:
        if part < 0:
            raise Refused(f"part {part} of an archive cannot be: the first part is 0")
        if part * UPLOAD_PART_BYTES > self._settings.max_packed_bytes:
            raise self._too_large()

    def _too_large(self) -> Refused:
        return Refused(
            f"the archive has more than {self._settings.max_packed_bytes:,} bytes, the most that this hub takes "
            "(FLASH_MAX_PACKED_BYTES): leave large files out, or let the environment read its rows from where they lie"
        )


def _environment_published(request: EnvironmentPublish, version: EnvironmentVersion) -> EnvironmentPublished:
    return EnvironmentPublished(
        org=request.org,
        slug=slug(request.environment),
        environment=request.environment,
        version=version.version,
        digest=version.digest,
        key=version.key,
        packed_bytes=version.packed_bytes,
    )
