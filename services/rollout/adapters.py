"""Adapters on this machine: fetched once, checked by digest, kept within a budget."""

import asyncio
import hashlib
import os
import re
import shutil
import tempfile
import time
from collections import defaultdict
from pathlib import Path

from flash.contracts.values import PolicyRef
from flash.errors import Refused
from flash.store import Damaged, Store
from services.rollout.engines import Adapter

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_DIGEST = re.compile(r"[0-9a-f]{64}")
_ABANDONED_S = 3_600


class Adapters:
    """A cache that processes of one machine share; a folder appears in it whole or not at all."""

    def __init__(self, store: Store, folder: Path, budget_bytes: int) -> None:
        self._store = store
        self._folder = folder
        self._budget_bytes = budget_bytes
        self._locks: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._checked: set[str] = set()
        """Digests of what this process has seen to be whole."""

    async def fetch(self, policy: PolicyRef) -> Adapter | None:
        """The policy's adapter on this machine; None for the bare base model.

        Raises Refused for what is no digest, Damaged when the store holds something else, and what the store raises.
        """
        if not policy.digest:
            return None
        if not _DIGEST.fullmatch(policy.digest):
            raise Refused(f"a policy has the digest {policy.digest!r}, but a digest is 64 hex digits")
        place = self._folder / policy.digest
        async with self._locks[policy.digest]:
            if not await asyncio.to_thread(self._is_whole, place):
                await self._bring(policy, place)
        self._locks.pop(policy.digest, None)
        await asyncio.to_thread(_touch, place)
        return Adapter(policy.digest, place)

    async def _bring(self, policy: PolicyRef, place: Path) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        arriving = Path(tempfile.mkdtemp(prefix="arriving-", dir=self._folder))
        try:
            for name in (CONFIG, WEIGHTS):
                await self._store.get_file(f"{policy.key}/{name}", arriving / name)
            found = await asyncio.to_thread(_sha256, arriving / WEIGHTS)
            if found != policy.digest:
                raise Damaged(f"the adapter under {policy.key} has digest {found}, but {policy.digest} was told")
            await asyncio.to_thread(_settle, arriving, place)
            self._checked.add(policy.digest)
            await asyncio.to_thread(self._make_room, place)
        finally:
            shutil.rmtree(arriving, ignore_errors=True)

    def _is_whole(self, place: Path) -> bool:
        """Is it there, and what its name says? Looked at once a process; what is not goes."""
        if not (place / WEIGHTS).is_file():
            return False
        if place.name not in self._checked and _sha256(place / WEIGHTS) != place.name:
            shutil.rmtree(place, ignore_errors=True)
            return False
        self._checked.add(place.name)
        return True

    def _make_room(self, newest: Path) -> None:
        """Drop the adapters that were longest unused until the rest fit, and what dead processes left half fetched."""
        for place in self._folder.glob("arriving-*"):
            if time.time() - _last_used(place) > _ABANDONED_S:
                shutil.rmtree(place, ignore_errors=True)
        kept = [place for place in self._folder.iterdir() if not place.name.startswith("arriving-")]
        kept.sort(key=_last_used, reverse=True)
        total = 0
        for place in kept:
            total += _size_bytes(place)
            if total > self._budget_bytes and place != newest:
                shutil.rmtree(place, ignore_errors=True)


def _settle(arriving: Path, place: Path) -> None:
    try:
        os.rename(arriving, place)
    except OSError:
        if not place.exists():  # another process of this machine was not faster: it really failed
            raise


def _touch(place: Path) -> None:
    os.utime(place)


def _last_used(place: Path) -> float:
    return place.stat().st_mtime if place.exists() else 0.0


def _size_bytes(place: Path) -> int:
    return sum(file.stat().st_size for file in place.glob("*") if file.is_file())


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
