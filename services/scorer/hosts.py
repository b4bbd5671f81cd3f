"""Loaded environments, kept warm: one host for each version and each way to load it, the longest idle gone first."""

import asyncio
import os
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec
import structlog

from flash.artifacts import copies, unpack
from flash.contracts.environments import DEFAULT_LIMITS, ArchiveLimits
from flash.host import Host, HostSpec, Limits, RequirementSets
from flash.store import Store

log = structlog.get_logger()


@dataclass(eq=False)
class _Kept:
    digest: str
    started: asyncio.Task[Host]
    users: int = 0
    used_at: float = 0.0

    @property
    def is_loaded(self) -> bool:
        return self.started.done() and not self.started.cancelled() and self.started.exception() is None


_WEIGHED_S = 10.0
"""How often the memory of all hosts is counted, at least."""


class Archives:
    """Environments unpacked on this machine, each once; the scorers and commands of a home share them."""

    def __init__(self, store: Store, folder: Path, limits: ArchiveLimits = DEFAULT_LIMITS) -> None:
        self._store, self._folder, self._limits = store, folder, limits
        self._held: dict[str, int] = {}
        """Descriptors of those that we work in, by digest."""

    async def folder(self, key: str, digest: str) -> Path:
        """It stays until `release`.

        Raises Damaged for an archive with another digest, and EnvironmentFault for one that must not be unpacked.
        """
        folder = self._folder / digest
        while digest not in self._held:
            if (held := copies.hold(folder)) is None:
                await self._fetch(key, folder, digest)
            else:
                self._held[digest] = held
        return folder

    def release(self, digest: str) -> None:
        """Nobody of this process works in it any more."""
        if (held := self._held.pop(digest, None)) is not None:
            os.close(held)

    async def remove(self, digest: str) -> None:
        """After `release`. Where another process works in it, it stays."""
        await asyncio.to_thread(copies.remove, self._folder / digest)

    async def _fetch(self, key: str, folder: Path, digest: str) -> None:
        with tempfile.TemporaryDirectory(prefix="flash-archive-") as scratch:
            archive = Path(scratch) / "archive"
            await self._store.get_file(key, archive)
            await asyncio.to_thread(self._unpack, archive, folder, digest)

    def _unpack(self, archive: Path, folder: Path, digest: str) -> None:
        with archive.open("rb") as file:
            unpack(file, folder, digest, self._limits)


class Hosts:
    """At most `max_hosts` environments, and `max_bytes` of memory, unless more are in use."""

    def __init__(
        self,
        archives: Archives,
        sets: RequirementSets,
        *,
        limits: Limits,
        load_timeout_s: float,
        max_hosts: int,
        max_bytes: int,
        idle_s: float,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._archives, self._sets, self._limits, self._load_timeout_s = archives, sets, limits, load_timeout_s
        self._max_hosts, self._max_bytes, self._idle_s, self._now = max_hosts, max_bytes, idle_s, now
        self._kept: dict[bytes, _Kept] = {}
        self._alone = Counter[str]()
        """Digests of hosts that are somebody's own."""
        self._withdrawn: set[str] = set()
        """Digests whose unpacked copy goes once nobody works in it."""

    @asynccontextmanager
    async def of(
        self,
        key: str,
        digest: str,
        params: Mapping[str, Any],
        pip: Sequence[str] = (),
        network: Sequence[str] = (),
        worker_env: Mapping[str, str] = MappingProxyType({}),
        secrets: Mapping[str, str] = MappingProxyType({}),
    ) -> AsyncIterator[Host]:
        """A loaded environment, the same for whoever asks alike. Raises LoadFailed."""
        which = msgspec.msgpack.encode(
            [digest, params, pip, network, dict(worker_env), dict(secrets)], order="deterministic"
        )
        kept = self._kept.get(which)
        if kept is None:
            started = asyncio.create_task(self._start(key, digest, params, pip, network, worker_env, secrets))
            kept = self._kept[which] = _Kept(digest, started)
        kept.users += 1
        try:
            await self._evict()
            # shielded: one who gives up waiting does not take the start from the others
            yield await asyncio.shield(kept.started)
        finally:
            kept.users -= 1
            kept.used_at = self._now()
            failed = kept.started.done() and (kept.started.cancelled() or kept.started.exception())
            if failed and self._kept.get(which) is kept:
                del self._kept[which]
                await self._let_go(digest)

    @asynccontextmanager
    async def alone(self, key: str, digest: str, params: Mapping[str, Any], **more: Any) -> AsyncIterator[Host]:
        """A host of one's own, loaded as `of` does. Raises InstallFailed where the requirements are why."""
        self._alone[digest] += 1
        try:
            host = await self._start(key, digest, params, **more)
            try:
                yield host
            finally:
                await host.close()
        finally:
            self._alone[digest] -= 1
            await self._let_go(digest)

    async def forget(self, digest: str) -> None:
        """A version with this content was withdrawn: its idle hosts are closed, and its unpacked copy goes.

        Where the same content is still used, under another name, it goes with the last who works in it.
        """
        self._withdrawn.add(digest)
        for which, kept in list(self._kept.items()):
            if kept.digest == digest and not kept.users:
                await self._drop(which)
        await self._let_go(digest)

    async def _let_go(self, digest: str) -> None:
        """The unpacked copy, where nobody of us works in it."""
        if self._alone[digest] or any(kept.digest == digest for kept in self._kept.values()):
            return
        del self._alone[digest]
        self._archives.release(digest)
        if digest in self._withdrawn:
            self._withdrawn.discard(digest)
            await self._archives.remove(digest)
            log.info("environment.forgotten", digest=digest[:12])

    async def _start(
        self,
        key: str,
        digest: str,
        params: Mapping[str, Any],
        pip: Sequence[str] = (),
        network: Sequence[str] = (),
        worker_env: Mapping[str, str] = MappingProxyType({}),
        secrets: Mapping[str, str] = MappingProxyType({}),
    ) -> Host:
        folder = await self._archives.folder(key, digest)
        requirements = await self._sets.folder(pip)
        spec = HostSpec(
            folder=folder,
            params=params,
            env=worker_env,
            secrets=secrets,
            requirements=requirements,
            network=network,
            tell=lambda decision: log.info(
                "egress.decided", digest=digest[:12], destination=decision.destination, refused=decision.refused
            ),
            limits=self._limits,
        )
        began = self._now()
        host = await Host.start(spec, load_timeout_s=self._load_timeout_s)
        await self._make_room()
        log.info("environment.loaded", digest=digest[:12], name=host.about.name, took_s=round(self._now() - began, 3))
        return host

    async def keep_tidy(self) -> None:
        """Close what has been idle for too long, for ever."""
        while True:
            await asyncio.sleep(min(self._idle_s / 4, _WEIGHED_S))
            await self._evict()
            await self._make_room()

    async def close(self) -> None:
        for which in list(self._kept):
            await self._drop(which)

    async def _make_room(self) -> None:
        """Close the longest idle for as long as all of them take more memory than they may."""
        while idle := self._idle():
            hosts = [kept.started.result() for kept in self._kept.values() if kept.is_loaded]
            if sum(await asyncio.to_thread(_weights, hosts)) <= self._max_bytes:
                return
            _, which = idle[0]
            log.info("environment.evicted", because="the memory of all hosts", kept=len(self._kept) - 1)
            await self._drop(which)

    def _idle(self) -> list[tuple[float, bytes]]:
        """The longest idle first."""
        return sorted((kept.used_at, which) for which, kept in self._kept.items() if not kept.users)

    async def _evict(self) -> None:
        idle = self._idle()
        too_many = len(self._kept) - self._max_hosts
        for place, (used_at, which) in enumerate(idle):
            if place < too_many or self._now() - used_at > self._idle_s:
                await self._drop(which)

    async def _drop(self, which: bytes) -> None:
        kept = self._kept.pop(which, None)
        if kept is None:
            return
        if not kept.started.done():
            kept.started.cancel()
        try:
            host = await kept.started
        except (Exception, asyncio.CancelledError):
            pass  # it never was
        else:
            await host.close()
        await self._let_go(kept.digest)


def _weights(hosts: Sequence[Host]) -> list[int]:
    return [host.private_bytes() for host in hosts]
