"""Which environments stay loaded."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from flash.artifacts import pack
from flash.errors import Damaged
from flash.host import Host, Limits, LoadFailed, RequirementSets
from flash.store.memory import MemoryStore
from services.scorer.hosts import Archives, Hosts
from tests.wheels import wheel

CODE = """
import os
from envsdk import EnvironmentSingleTurn
class Env(EnvironmentSingleTurn):
    def build_prompt_messages(self, example, prompt_text): return [{"role": "user", "content": example.input}]
    def score_response(self, example, text): return 1.0
def load_environment(level=0):
    if level < 0: raise ValueError("no such level")
    if level == 7 and os.environ.get("FEATURE_FLAG") != "enabled": raise ValueError("the feature is off")
    return Env()
"""


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class World:
    """A cache of hosts over one stored environment."""

    def __init__(self, folder: Path, max_bytes: int = 1 << 40) -> None:
        (folder / "environment.py").write_text(CODE)
        self.packed = pack(folder / "environment.py")
        self.store, self.clock = MemoryStore(), Clock()
        self.cache = folder / "cache"
        self.archives = Archives(self.store, self.cache)
        self.hosts = Hosts(
            self.archives,
            RequirementSets(folder / "sets"),
            limits=Limits(slots=1),
            load_timeout_s=20,
            max_hosts=2,
            max_bytes=max_bytes,
            idle_s=100,
            now=self.clock,
        )

    async def use(self, pip: Sequence[str] = (), worker_env: Mapping[str, str] | None = None, **params: Any) -> Host:
        async with self.hosts.of("key", self.packed.digest, params, pip, worker_env=worker_env or {}) as host:
            self.clock.now += 1
            return host


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path)
    await made.store.put("key", made.packed.data)
    yield made
    await made.hosts.close()


async def test_an_environment_is_loaded_once_for_all_who_ask_alike(world: World) -> None:
    first, second, other = await asyncio.gather(world.use(level=1), world.use(level=1), world.use(level=2))

    assert first is second is await world.use(level=1)
    assert other is not first


async def test_the_longest_idle_goes_first(world: World) -> None:
    one, two = await world.use(level=1), await world.use(level=2)
    await world.use(level=1)

    await world.use(level=3)

    assert await world.use(level=1) is one
    assert await world.use(level=2) is not two


async def test_what_is_idle_for_too_long_is_closed(world: World) -> None:
    host = await world.use()
    world.clock.now += 101

    await world.hosts._evict()

    assert host._link.lost_because == "closed"
    assert await world.use() is not host


async def test_what_is_in_use_stays_however_many_there_are(world: World) -> None:
    async with world.hosts.of("key", world.packed.digest, {"level": 9}) as held:
        for level in range(3):
            await world.use(level=level)

        assert not held._link.lost_because


async def test_a_failed_load_is_told_to_all_and_tried_again(world: World) -> None:
    failed = await asyncio.gather(world.use(level=-1), world.use(level=-1), return_exceptions=True)

    assert [type(error) for error in failed] == [LoadFailed, LoadFailed]
    with pytest.raises(LoadFailed, match="no such level"):
        await world.use(level=-1)


async def test_an_archive_is_fetched_once_and_only_as_it_was_published(world: World) -> None:
    with pytest.raises(Damaged):
        await world.archives.folder("key", "0" * 64)

    folder = await world.archives.folder("key", world.packed.digest)
    await world.store.delete("key")

    assert await world.archives.folder("key", world.packed.digest) == folder


async def test_what_was_withdrawn_leaves_no_copy_behind(world: World) -> None:
    host = await world.use()

    await world.hosts.forget(world.packed.digest)

    assert host._link.lost_because == "closed"
    assert list(world.cache.iterdir()) == []
    assert await world.use() is not host  # the same content, under another name


async def test_what_was_withdrawn_and_is_in_use_under_another_name_goes_when_it_is_not(world: World) -> None:
    other = Archives(world.store, world.cache)  # another scorer of this home
    async with world.hosts.of("key", world.packed.digest, {"level": 1}) as held:
        await world.hosts.forget(world.packed.digest)

        assert not held._link.lost_because
        await other.remove(world.packed.digest)
        assert (world.cache / world.packed.digest).is_dir()
    await world.hosts.close()

    assert list(world.cache.iterdir()) == []


async def test_runs_share_a_host_only_with_the_same_requirements(world: World, index: Path) -> None:
    wheel(index, "greeting", "1.0")

    plain, polite, again = await world.use(), await world.use(["greeting"]), await world.use(["greeting"])

    assert polite is again
    assert polite is not plain
    assert (plain.spec.requirements, polite.spec.requirements is None) == (None, False)


async def test_an_environment_sees_the_variables_of_its_run_and_no_other_run_s(world: World) -> None:
    with pytest.raises(LoadFailed, match="the feature is off"):
        await world.use(level=7)

    enabled = await world.use(level=7, worker_env={"FEATURE_FLAG": "enabled"})

    assert await world.use(level=7, worker_env={"FEATURE_FLAG": "enabled"}) is enabled
    with pytest.raises(LoadFailed, match="the feature is off"):
        await world.use(level=7, worker_env={"FEATURE_FLAG": "disabled"})


async def test_hosts_that_take_too_much_memory_together_make_room(tmp_path: Path) -> None:
    world = World(tmp_path, max_bytes=1)
    await world.store.put("key", world.packed.data)
    try:
        first = await world.use(level=1)
        await world.use(level=2)

        assert (await world.use(level=2)).about.name == "Env"  # never the one that is wanted
        assert first._link.lost_because == "closed"
    finally:
        await world.hosts.close()
