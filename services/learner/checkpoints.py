"""Checkpoints: an adapter, and what going on from it needs, in one folder of the store.

The manifest is written last and names the digest of every other file: a folder without it, or whose files are not those
it names, is no checkpoint.
"""

import asyncio
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
import structlog

from flash import chaos
from flash.contracts.keys import checkpoint_key
from flash.contracts.values import PolicyRef
from flash.errors import Damaged, NoSuchObject
from flash.store import Store

MANIFEST = "manifest.json"

log = structlog.get_logger()


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a checkpoint consists of."""

    run_id: str
    step: int
    policy: PolicyRef
    model: str
    """The base model."""
    seed: int
    """With the step, the whole state of the run's randomness: every draw is a function of the two."""
    files: dict[str, str]
    """sha256 of each, in hex."""


@dataclass(frozen=True)
class Save:
    """A checkpoint on its way."""

    run_id: str
    step: int
    policy: PolicyRef
    model: str
    seed: int
    files: Mapping[str, bytes]
    final: bool = False

    @property
    def key(self) -> str:
        return checkpoint_key(self.run_id, self.step)


async def write(store: Store, save: Save) -> None:
    for name, data in save.files.items():
        await store.put(f"{save.key}/{name}", data)
    chaos.point("checkpoint-uploaded")
    manifest = Manifest(
        run_id=save.run_id,
        step=save.step,
        policy=save.policy,
        model=save.model,
        seed=save.seed,
        files={name: hashlib.sha256(data).hexdigest() for name, data in save.files.items()},
    )
    await store.put(f"{save.key}/{MANIFEST}", msgspec.json.encode(manifest))


async def read(store: Store, key: str) -> tuple[Manifest, dict[str, bytes]] | None:
    """None when there is no whole checkpoint under this key."""
    try:
        manifest = msgspec.json.decode(await store.get(f"{key}/{MANIFEST}"), type=Manifest)
        files = {name: await store.get(f"{key}/{name}") for name in manifest.files}
    except (NoSuchObject, Damaged, msgspec.DecodeError) as error:
        log.warning("checkpoint.unusable", key=key, reason=str(error))
        return None
    for name, data in files.items():
        if (found := hashlib.sha256(data).hexdigest()) != manifest.files[name]:
            log.warning("checkpoint.unusable", key=key, file=name, digest=found, wanted=manifest.files[name])
            return None
    return manifest, files


def is_due(step: int, *, save_every: int, steps: int) -> bool:
    return step == steps or step % save_every == 0


class Saver:
    """One upload in flight, one waiting. A newer save replaces the waiting one; whatever is last always arrives."""

    def __init__(self, upload: Callable[[Save], Any]) -> None:
        """`upload`: an async function that returns once the save is in the store."""
        self._upload = upload
        self._waiting: Save | None = None
        self._task: asyncio.Task[None] | None = None
        self._arrived: list[Save] = []
        self._news = asyncio.Event()

    def offer(self, save: Save) -> None:
        """Returns at once."""
        if self._task is not None and self._task.done():
            self._task = None
        if self._task is not None and self._waiting is not None:
            log.info("checkpoint.replaced", step=self._waiting.step, by=save.step)
        self._waiting = save
        self._task = self._task or asyncio.create_task(self._work())

    def arrived(self) -> list[Save]:
        """Those in the store since last asked, in order. Raises what an upload raised."""
        self._news.clear()
        if self._task is not None and self._task.done():
            self._task.result()
        arrived, self._arrived = self._arrived, []
        return arrived

    async def arrived_before(self, done: asyncio.Future[Any]) -> list[Save]:
        """The same, as soon as there are any; empty once `done` is."""
        while not (arrived := self.arrived()) and not done.done():
            news = asyncio.ensure_future(self._news.wait())
            try:
                await asyncio.wait({done, news}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                news.cancel()
        return arrived

    async def flush(self) -> list[Save]:
        """Wait for all that was offered. Raises what an upload raised."""
        if self._task is not None:
            await asyncio.wait({self._task})
        return self.arrived()

    def close(self) -> None:
        """Stop: what has not arrived never will."""
        self._waiting = None
        if self._task is not None:
            self._task.cancel()

    async def _work(self) -> None:
        try:
            while (save := self._waiting) is not None:
                self._waiting = None
                await self._upload(save)
                self._arrived.append(save)
                self._news.set()
        finally:
            self._news.set()
