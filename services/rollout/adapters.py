"""Adapters on this machine: fetched once, checked by digest, kept within a budget."""

import asyncio
import hashlib
import os
import shutil
import tempfile
from collections import defaultdict
from pathlib import Path

from flash.contracts.values import PolicyRef
from flash.store import Damaged, Store
from services.rollout.engines import Adapter

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


class Adapters:
    """A cache that processes of one machine share; a folder appears in it whole or not at all."""

    def __init__(self, store: Store, folder: Path, budget_bytes: int) -> None:
        self._store = store
        self._folder = folder
        self._budget_bytes = budget_bytes
        self._locks: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def fetch(self, policy: PolicyRef) -> Adapter | None:
        """The policy's adapter on this machine; None for the bare base model. Raises what the store raises."""
        if not policy.digest:
            return None
        place = self._folder / policy.digest
        async with self._locks[policy.digest]:
            if not place.exists():
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
            await asyncio.to_thread(self._make_room, place)
        finally:
            shutil.rmtree(arriving, ignore_errors=True)

    def _make_room(self, newest: Path) -> None:
        """Drop the adapters that were longest unused until the rest fit."""
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
