"""Adapters on this machine: fetched once, checked by digest, kept within a budget.

FOLDER/<digest>/          an adapter; it appears whole or not at all
FOLDER/arriving-<any>/    one that is being fetched
FOLDER/locks/<xx>         held by who fetches an adapter whose digest begins so
"""

import asyncio
import hashlib
import os
import re
import shutil
import tempfile
import time
from collections import defaultdict
from contextlib import suppress
from pathlib import Path

from flash.contracts.values import PolicyRef
from flash.errors import Refused
from flash.locks import alone
from flash.store import Damaged, Store
from services.rollout.engines import Adapter

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_DIGEST = re.compile(r"[0-9a-f]{64}")
_ABANDONED_S = 3_600
_JUST_USED_S = 5.0
"""What was asked for so lately stays, whatever it takes: an engine may be about to read it."""


class Adapters:
    """A cache that processes of one machine share."""

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
        async with self._locks[policy.digest[:2]]:
            if not await asyncio.to_thread(self._is_whole, place):
                async with alone(self._folder / "locks" / policy.digest[:2]):
                    if not await asyncio.to_thread(self._is_whole, place):  # no other process was faster
                        await self._bring(policy, place)
        return Adapter(policy.digest, place)

    async def _bring(self, policy: PolicyRef, place: Path) -> None:
        arriving = Path(tempfile.mkdtemp(prefix="arriving-", dir=self._folder))
        try:
            for name in (CONFIG, WEIGHTS):
                await self._store.get_file(f"{policy.key}/{name}", arriving / name)
            found = await asyncio.to_thread(_sha256, arriving / WEIGHTS)
            if found != policy.digest:
                raise Damaged(f"the adapter under {policy.key} has digest {found}, but {policy.digest} was told")
            await asyncio.to_thread(_settle, arriving, place)
            self._checked.add(policy.digest)
            await asyncio.to_thread(self._make_room)
        finally:
            shutil.rmtree(arriving, ignore_errors=True)

    def _is_whole(self, place: Path) -> bool:
        """Is it there, and what its name says? Looked at once a process. From now on it counts as used."""
        with suppress(FileNotFoundError):
            os.utime(place)
            if place.name in self._checked:
                return (place / WEIGHTS).is_file()
            if _sha256(place / WEIGHTS) == place.name:
                self._checked.add(place.name)
                return True
        return False

    def _make_room(self) -> None:
        """Drop the adapters that were longest unused until the rest fit, and what dead processes left half fetched."""
        now = time.time()
        for place in self._folder.glob("arriving-*"):
            if now - _last_used(place) > _ABANDONED_S:
                shutil.rmtree(place, ignore_errors=True)
        kept = [(_last_used(place), place) for place in self._folder.iterdir() if _DIGEST.fullmatch(place.name)]
        total = 0
        for used, place in sorted(kept, reverse=True):
            total += _size_bytes(place)
            if total > self._budget_bytes and now - used > _JUST_USED_S:
                shutil.rmtree(place, ignore_errors=True)


def _settle(arriving: Path, place: Path) -> None:
    shutil.rmtree(place, ignore_errors=True)  # a damaged one
    os.rename(arriving, place)


def _last_used(place: Path) -> float:
    """In seconds since the epoch. What another process has dropped meanwhile is long unused."""
    with suppress(FileNotFoundError):
        return place.stat().st_mtime
    return 0.0


def _size_bytes(place: Path) -> int:
    size = 0
    for name in (CONFIG, WEIGHTS):
        with suppress(FileNotFoundError):
            size += (place / name).stat().st_size
    return size


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
