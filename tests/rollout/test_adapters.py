"""Adapters come to this machine once, whole, and make room for each other."""

import asyncio
import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from flash.contracts.values import PolicyRef
from flash.errors import Refused
from flash.store import Damaged, NoSuchObject
from services.rollout.adapters import Adapters

ADAPTER_BYTES = len(b"{}") + len(b"weights r1 1")


HOLDS_FOREVER = """
import fcntl, os, pathlib, sys, time
locks = pathlib.Path(sys.argv[1], "locks")
locks.mkdir()
lock = open(locks / sys.argv[2][:2], "w")
fcntl.flock(lock, fcntl.LOCK_EX)
print("held", flush=True)
time.sleep(600)
"""


class CountingStore:
    """Passes on to a store, slowly, and counts."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self.fetched = 0

    async def get_file(self, key: str, path: Path) -> Any:
        self.fetched += 1
        await asyncio.sleep(0.02)
        return await self._store.get_file(key, path)


async def test_an_adapter_is_fetched_once_by_all_who_want_it(world: Any, tmp_path: Path) -> None:
    store = CountingStore(world.store)
    adapters = Adapters(store, tmp_path, 1 << 20)  # type: ignore[arg-type]
    policy = await world.adapter(1)

    found = await asyncio.gather(*(adapters.fetch(policy) for _ in range(8)))
    later = await Adapters(store, tmp_path, 1 << 20).fetch(policy)  # type: ignore[arg-type]

    assert {adapter.folder for adapter in (*found, later) if adapter} == {tmp_path / policy.digest}
    assert store.fetched == 2  # config and weights


async def test_processes_of_one_machine_that_want_it_at_once_fetch_it_once(world: Any, tmp_path: Path) -> None:
    store = CountingStore(world.store)
    policy, other = await world.adapter(1), await world.adapter(2)
    processes = [Adapters(store, tmp_path, 1 << 20) for _ in range(4)]  # type: ignore[arg-type]

    found = await asyncio.gather(*(each.fetch(which) for each in processes for which in (policy, other)))

    assert {adapter.folder for adapter in found if adapter} == {tmp_path / policy.digest, tmp_path / other.digest}
    assert store.fetched == 2 * 2


async def test_who_dies_while_fetching_leaves_it_to_the_others(world: Any, tmp_path: Path) -> None:
    policy = await world.adapter(1)
    dying = await asyncio.create_subprocess_exec(
        sys.executable, "-c", HOLDS_FOREVER, tmp_path, policy.digest, stdout=asyncio.subprocess.PIPE
    )
    assert dying.stdout
    await dying.stdout.readline()
    fetching = asyncio.create_task(Adapters(world.store, tmp_path, 1 << 20).fetch(policy))
    await asyncio.sleep(0.1)
    assert not fetching.done()

    dying.kill()
    async with asyncio.timeout(5):
        assert await fetching
    await dying.wait()


async def test_the_base_model_needs_no_adapter(world: Any, tmp_path: Path) -> None:
    assert await Adapters(world.store, tmp_path, 0).fetch(PolicyRef()) is None


async def test_weights_that_are_not_what_was_told_are_refused_and_leave_nothing(world: Any, tmp_path: Path) -> None:
    policy = await world.adapter(1)
    await world.store.put(f"{policy.key}/adapter_model.safetensors", b"others")

    with pytest.raises(Damaged, match=policy.digest):
        await Adapters(world.store, tmp_path, 1 << 20).fetch(policy)
    assert os.listdir(tmp_path) == ["locks"]


async def test_a_damaged_copy_on_disk_is_fetched_again(world: Any, tmp_path: Path) -> None:
    policy = await world.adapter(1)
    adapter = await Adapters(world.store, tmp_path, 1 << 20).fetch(policy)
    assert adapter
    (adapter.folder / "adapter_model.safetensors").write_bytes(b"bit rot")

    again = await Adapters(world.store, tmp_path, 1 << 20).fetch(policy)

    assert again
    assert (again.folder / "adapter_model.safetensors").read_bytes() == b"weights r1 1"


async def test_the_longest_unused_adapters_make_room(world: Any, tmp_path: Path) -> None:
    adapters = Adapters(world.store, tmp_path, 2 * ADAPTER_BYTES)
    policies = [await world.adapter(version) for version in (1, 2, 3)]
    for age, policy in zip((30, 10), policies, strict=False):
        await adapters.fetch(policy)
        os.utime(tmp_path / policy.digest, (time.time() - age,) * 2)
    await adapters.fetch(policies[0])  # used again: now the second is the oldest

    await adapters.fetch(policies[2])

    assert set(os.listdir(tmp_path)) == {policies[0].digest, policies[2].digest, "locks"}
    assert await adapters.fetch(policies[1])


async def test_an_adapter_larger_than_the_budget_is_still_there_to_be_used(world: Any, tmp_path: Path) -> None:
    adapter = await Adapters(world.store, tmp_path, 1).fetch(await world.adapter(1))

    assert adapter
    assert adapter.folder.is_dir()


async def test_what_a_dead_process_left_half_fetched_is_swept_away(world: Any, tmp_path: Path) -> None:
    left, fresh = tmp_path / "arriving-dead", tmp_path / "arriving-alive"
    left.mkdir()
    fresh.mkdir()
    os.utime(left, (time.time() - 7_200,) * 2)

    await Adapters(world.store, tmp_path, 1 << 20).fetch(await world.adapter(1))

    assert not left.exists()
    assert fresh.exists()


async def test_a_missing_adapter_says_which(world: Any, tmp_path: Path) -> None:
    with pytest.raises(NoSuchObject, match="runs/r1/adapters"):
        await Adapters(world.store, tmp_path, 1).fetch(PolicyRef(key="runs/r1/adapters/x", digest="a" * 64))


async def test_a_digest_never_leads_out_of_the_cache(world: Any, tmp_path: Path) -> None:
    with pytest.raises(Refused, match="64 hex digits"):
        await Adapters(world.store, tmp_path / "cache", 1).fetch(PolicyRef(key="k", digest="../outside"))
