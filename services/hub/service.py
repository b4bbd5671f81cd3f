"""The hub: takes archives in, has them checked, and gives each its version."""

import difflib
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import structlog

from flash.bus import Bus
from flash.contracts.base import Done, FilePart, Request
from flash.contracts.environments import (
    ArchiveLimits,
    EnvironmentDelete,
    EnvironmentLimits,
    EnvironmentOffer,
    EnvironmentPublished,
    EnvironmentRollback,
    EnvironmentShow,
    EnvironmentStory,
    EnvironmentVersions,
    EnvironmentWithdraw,
    EnvironmentWithdrawn,
    VersionsPage,
    WantedParts,
    slug,
)
from flash.contracts.hosting import CheckReport, EnvironmentCheck
from flash.contracts.keys import UPLOAD_PART_BYTES, environment_key, upload_key
from flash.contracts.requests import (
    EnvironmentFetch,
    EnvironmentList,
    EnvironmentListing,
    EnvironmentPublish,
    EnvironmentResolve,
    EnvironmentUpload,
    EnvironmentVersion,
)
from flash.errors import EnvironmentFault, NobodyAnswers, NoSuchObject, NotFound, Refused
from flash.store import Store
from services.hub import versions
from services.hub.settings import Settings
from services.hub.uploads import PartMissing, Uploads
from services.hub.uses import LIVE, Uses

_CONTRACT = ("contract_text", "contract_path")
_PAGE = 200
"""Versions in one message."""
_STRETCH_PARTS = 8
"""Parts of an archive that one fetch gives: what may wait for a slow reader."""
_SHOWN_USES = 100

log = structlog.get_logger()


class Hub:
    """Publishing twice, or again after a lost reply, gives the same version."""

    def __init__(self, bus: Bus, store: Store, settings: Settings, now: Callable[[], float]) -> None:
        self._bus = bus
        self._store = store
        self._settings = settings
        self._now = now
        self._environments = bus.records("environments")
        self._versions = bus.records("versions")
        self._uploads = Uploads(store, bus.records("uploads"), settings, now)
        self._uses = Uses(bus)

    def answers(self) -> Mapping[type[Request], Callable[[Any], Any]]:
        return {
            EnvironmentLimits: self.on_environment_limits,
            EnvironmentOffer: self.on_environment_offer,
            EnvironmentUpload: self.on_environment_upload,
            EnvironmentPublish: self.on_environment_publish,
            EnvironmentResolve: self.on_environment_resolve,
            EnvironmentList: self.on_environment_list,
            EnvironmentFetch: self.on_environment_fetch,
            EnvironmentShow: self.on_environment_show,
            EnvironmentVersions: self.on_environment_versions,
            EnvironmentRollback: self.on_environment_rollback,
            EnvironmentWithdraw: self.on_environment_withdraw,
            EnvironmentDelete: self.on_environment_delete,
        }

    async def keep_tidy(self) -> None:
        """Run beside the service."""
        await self._uploads.keep_tidy()

    async def on_environment_limits(self, request: EnvironmentLimits) -> ArchiveLimits:
        return self._settings.archive_limits

    async def on_environment_offer(self, request: EnvironmentOffer) -> WantedParts:
        missing = await self._uploads.missing(request)
        known = await self._known(request.org, request.environment, request.digest)
        return WantedParts(parts=[] if known else missing)

    async def on_environment_upload(self, request: EnvironmentUpload) -> Done:
        await self._uploads.keep(request)
        return Done()

    async def on_environment_publish(self, request: EnvironmentPublish) -> EnvironmentVersion:
        """Make the uploaded parts a version of the environment, if a scorer can load them."""
        self._uploads.check_digest(request.digest)
        version = await self._known(request.org, request.environment, request.digest)
        if version is None:
            version = await self._taken_in(request)
        elif version.notes:
            version = await self._looked_at_again(request, version)
        where = (request.org, request.environment)
        stands = await self._versions.update(
            versions.version_id(*where, version.version), lambda document: versions.kept(document, version)
        )
        standing = versions.opened(stands) or version
        await self._environments.update(
            versions.environment_id(*where), lambda document: versions.pointed(document, standing)
        )
        await self._bus.publish(_environment_published(request, standing))
        await self._uploads.forget(*where, request.digest)
        log.info("environment.published", environment=standing.id, version=standing.version)
        return standing

    async def on_environment_resolve(self, request: EnvironmentResolve) -> EnvironmentVersion:
        return await self._meant(request.reference)

    async def on_environment_list(self, request: EnvironmentList) -> AsyncIterator[EnvironmentListing]:
        documents = await self._environments.all(request.org)
        found = [there.newest for there in map(versions.environment, documents.values()) if there.newest]
        found.sort(key=lambda version: version.id)
        for start in range(0, len(found), _PAGE):
            yield EnvironmentListing(environments=found[start : start + _PAGE])

    async def on_environment_fetch(self, request: EnvironmentFetch) -> AsyncIterator[FilePart]:
        """A stretch of the archive as it was published, in parts that fit into messages."""
        version = await self._meant(request.reference)
        end = min(version.packed_bytes, request.start + _STRETCH_PARTS * UPLOAD_PART_BYTES)
        for start in range(max(0, request.start), end, UPLOAD_PART_BYTES):
            yield FilePart(data=await self._store.get_range(version.key, start, UPLOAD_PART_BYTES))

    async def on_environment_show(self, request: EnvironmentShow) -> EnvironmentStory:
        version = await self._meant(request.reference, usable=False)
        newest = (await self._environment(versions.reference_of(version.id))).newest
        uses = await self._uses.of([f"{version.id}@{version.version}"])
        mine = [use.told() for use in uses if version.id.startswith(f"{use.org}/")]
        return EnvironmentStory(
            version=version,
            is_newest=newest is not None and newest.version == version.version,
            uses=mine[:_SHOWN_USES],
            num_uses=len(mine),
        )

    async def on_environment_versions(self, request: EnvironmentVersions) -> AsyncIterator[VersionsPage]:
        reference = versions.reference_of(request.reference)
        there = await self._environment(reference)
        found = [versions.brief(version) for version in versions.in_order(await self._all(reference))]
        for start in range(0, len(found), _PAGE):
            newest = there.newest.version if there.newest else ""
            yield VersionsPage(versions=found[start : start + _PAGE], newest=newest)

    async def on_environment_rollback(self, request: EnvironmentRollback) -> EnvironmentVersion:
        reference = versions.Reference(request.org, request.environment, request.version)
        there = await self._environment(reference)
        if request.version:
            version = await self._version(reference, usable=True)
            move = versions.pointed
        else:
            found = versions.one_before(there, await self._all(reference))
            if found is None:
                raise Refused(f"{reference.id} has no other version that can be used: there is nothing to go back to")
            version, move = found, versions.pointed_back
        await self._environments.update(_record(reference), lambda document: move(document, version))
        log.info("environment.rolled-back", environment=version.id, version=version.version)
        return version

    async def on_environment_withdraw(self, request: EnvironmentWithdraw) -> EnvironmentVersion:
        reference = versions.Reference(request.org, request.environment, request.version)
        await self._environment(reference)
        (version,) = await self._withdrawn(reference, [await self._version(reference, usable=False)])
        return version

    async def on_environment_delete(self, request: EnvironmentDelete) -> Done:
        reference = versions.Reference(request.org, request.environment)
        await self._environment(reference)
        found = await self._all(reference)
        await self._withdrawn(reference, found)
        for version in found:
            record = versions.version_id(request.org, request.environment, version.version)
            await self._versions.update(record, lambda _: None)
        await self._environments.update(_record(reference), lambda _: None)
        log.info("environment.deleted", environment=reference.id, versions=len(found))
        return Done()

    async def _meant(self, text: str, *, usable: bool = True) -> EnvironmentVersion:
        """The version that a reference means. Raises NotFound, with what there is instead."""
        reference = versions.reference_of(text)
        there = await self._environment(reference)
        if not reference.version:
            if there.newest is None:
                raise NotFound(f"every version of {reference.id} was withdrawn: push it again, or name another")
            reference = msgspec.structs.replace(reference, version=there.newest.version)
        return await self._version(reference, usable=usable)

    async def _environment(self, reference: versions.Reference) -> versions.Environment:
        """Raises NotFound, with the nearest id."""
        if document := await self._environments.get(_record(reference)):
            return versions.environment(document)
        documents = await self._environments.all(reference.org)
        others = [there.newest.id for there in map(versions.environment, documents.values()) if there.newest]
        near = difflib.get_close_matches(reference.id, others, n=1)
        meant = f"did you mean {near[0]}?" if near else f"`flash env push --name {reference.name}` makes one"
        raise NotFound(f"there is no environment {reference.id}: {meant}")

    async def _version(self, reference: versions.Reference, *, usable: bool) -> EnvironmentVersion:
        """Raises NotFound for one that is not there, or that cannot be used any more."""
        record = versions.version_id(reference.org, reference.name, reference.version)
        version = versions.opened(await self._versions.get(record))
        if version is None:
            found = versions.in_order(await self._all(reference))
            there = ", ".join(v.version for v in found if not v.withdrawn_at) or "all withdrawn"
            raise NotFound(f"{reference.id} has no version {reference.version}; the newest are {there[:70]}")
        if usable and version.withdrawn_at:
            lists = f"`flash env versions {reference.id}` lists what can be used"
            raise NotFound(f"{reference.id}@{reference.version} was withdrawn: {lists}")
        return version

    async def _all(self, reference: versions.Reference) -> list[EnvironmentVersion]:
        found = map(versions.opened, (await self._versions.all(_record(reference))).values())
        return [version for version in found if version]

    async def _known(self, org: str, environment: str, digest: str) -> EnvironmentVersion | None:
        """The version with this content, where there is one that can be used."""
        record = versions.version_id(org, environment, versions.version_of(digest))
        version = versions.opened(await self._versions.get(record))
        return version if version and version.digest == digest and not version.withdrawn_at else None

    async def _withdrawn(
        self, reference: versions.Reference, found: Sequence[EnvironmentVersion]
    ) -> list[EnvironmentVersion]:
        """These versions once no run can use them and their archives are gone. Raises Refused where a live run does."""
        await self._require_unused(found)
        gone = [await self._marked(version, at=version.withdrawn_at or self._now()) for version in found]
        try:
            await self._require_unused(found)  # by a run that was submitted meanwhile
        except Refused:
            for version in found:
                await self._marked(version, at=version.withdrawn_at)
            raise
        rest = await self._all(reference)
        for version in gone:
            await self._environments.update(_record(reference), partial(_without, version=version, rest=rest))
            await self._store.delete(version.key)
            await self._bus.publish(_environment_withdrawn(reference, version))
            log.info("environment.withdrawn", environment=version.id, version=version.version)
        return gone

    async def _marked(self, version: EnvironmentVersion, *, at: float) -> EnvironmentVersion:
        reference = versions.reference_of(version.id)
        record = versions.version_id(reference.org, reference.name, version.version)
        await self._versions.update(record, lambda document: versions.withdrawn(document, at))
        return msgspec.structs.replace(version, withdrawn_at=at)

    async def _require_unused(self, found: Sequence[EnvironmentVersion]) -> None:
        named = [f"{version.id}@{version.version}" for version in found]
        live = [use for use in await self._uses.of(named) if use.state == LIVE]
        if not live:
            return
        mine = [use for use in live if use.environment.startswith(f"{use.org}/")]
        who = mine[0].run_id if mine else "a run of another organisation"
        others = f" and {len(live) - 1} more" if len(live) > 1 else ""
        do = f"wait for it, or `flash cancel {who}`" if mine else "wait for it"
        raise Refused(f"{live[0].environment} is in use by {who}{others}, which is not over: {do}")

    async def _taken_in(self, request: EnvironmentPublish) -> EnvironmentVersion:
        """The version that comes of the parts, or that somebody else has made of the same meanwhile."""
        await self._require_scorer()  # before any work: whoever waits for one asks again and again
        try:
            return await self._checked_and_kept(request)
        except (PartMissing, NoSuchObject) as error:
            # Who publishes clears the parts away, and what lies behind them.
            if known := await self._known(request.org, request.environment, request.digest):
                return known
            raise Refused(f"the archive is not all there ({error}): push again") from error

    async def _checked_and_kept(self, request: EnvironmentPublish) -> EnvironmentVersion:
        """Put the parts together, have a scorer look at them, and keep the archive."""
        with tempfile.TemporaryDirectory(prefix="flash-hub-") as scratch:
            archive = Path(scratch) / "archive"
            num_bytes = await self._uploads.put_together(request, archive)
            # Behind its own parts until a scorer has found it sound: under a version's key lies a version.
            whole = upload_key(request.org, request.environment, request.digest, request.parts)
            await self._store.put_file(whole, archive)
            report = await self._checked(request, whole)
            version = versions.version_of(request.digest)
            key = environment_key(request.org, request.environment, version)
            await self._store.put_file(key, archive)
        return EnvironmentVersion(
            id=f"{request.org}/{request.environment}",
            version=version,
            digest=request.digest,
            key=key,
            packed_bytes=num_bytes,
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
            await self._uploads.forget(request.org, request.environment, request.digest)
            traceback = f"\n{report.fault.traceback.rstrip()}" if report.fault.traceback else ""
            raise EnvironmentFault(f"{request.environment} cannot be loaded: {report.fault.message}{traceback}")
        return report

    async def _ask_scorer(self, check: EnvironmentCheck) -> CheckReport:
        await self._require_scorer()
        report: CheckReport = await self._bus.ask(check, self._settings.check_timeout_s)
        return report

    async def _require_scorer(self) -> None:
        # Looked for first: a request waits for a replica, and whoever pushes should hear soon why nothing happens.
        if not any(replica.service == "scorer" for replica in await self._bus.replicas()):
            raise NobodyAnswers("no scorer is up to check the environment")


def _record(reference: versions.Reference) -> str:
    return versions.environment_id(reference.org, reference.name)


def _without(document: bytes | None, version: EnvironmentVersion, rest: Sequence[EnvironmentVersion]) -> bytes:
    """An environment's document once a version was withdrawn; `rest` are all there are."""
    there = versions.environment(document)
    if there.newest is None or there.newest.version != version.version:
        return msgspec.json.encode(there)
    return versions.pointed_back(document, versions.one_before(there, rest))


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


def _environment_withdrawn(reference: versions.Reference, version: EnvironmentVersion) -> EnvironmentWithdrawn:
    return EnvironmentWithdrawn(
        org=reference.org,
        slug=slug(reference.name),
        environment=reference.name,
        version=version.version,
        digest=version.digest,
    )
