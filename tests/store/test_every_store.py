"""What is true of each kind of store."""

import asyncio
import hashlib
import os
from pathlib import Path

import pytest

from flash.store import AlreadyThere, NoSuchObject, Stat, Store, StoreError


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


async def keys(store: Store, prefix: str = "") -> list[str]:
    return [stat.key async for stat in store.list(prefix)]


async def test_what_is_put_is_what_is_got(store: Store) -> None:
    stat = await store.put("runs/r1/spec.json", b'{"seed": 1}')

    assert await store.get("runs/r1/spec.json") == b'{"seed": 1}'
    assert stat == Stat("runs/r1/spec.json", 11, sha256(b'{"seed": 1}'))
    assert await store.stat("runs/r1/spec.json") == stat


async def test_some_of_the_bytes_can_be_read_alone(store: Store) -> None:
    await store.put("a", bytes(range(100)))

    assert await store.get_range("a", 0, 3) == b"\0\1\2"
    assert await store.get_range("a", 98, 10) == bytes([98, 99])
    assert await store.get_range("a", 100, 10) == b""
    with pytest.raises(NoSuchObject):
        await store.get_range("b", 0, 10)


async def test_an_empty_object_is_an_object(store: Store) -> None:
    await store.put("empty", b"")

    assert await store.get("empty") == b""
    assert await store.stat("empty") == Stat("empty", 0, sha256(b""))


async def test_a_later_put_replaces_the_object(store: Store) -> None:
    await store.put("a", b"first")
    await store.put("a", b"second")

    assert await store.get("a") == b"second"
    assert await keys(store) == ["a"]


async def test_an_object_is_read_whole_while_it_is_being_replaced(store: Store) -> None:
    versions = [bytes([number]) * 300_000 for number in range(8)]
    await store.put("a", versions[0])

    async def put_all() -> None:
        for version in versions:
            await store.put("a", version)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(put_all())
        reads = [tasks.create_task(store.get("a")) for _ in range(16)]

    assert {read.result() for read in reads} <= set(versions)


async def test_exactly_one_of_many_conditional_puts_wins(store: Store) -> None:
    async def put(number: int) -> bytes | None:
        data = b"%d" % number
        try:
            await store.put("claims/one", data, if_absent=True)
        except AlreadyThere:
            return None
        return data

    won = [data for data in await asyncio.gather(*(put(number) for number in range(32))) if data is not None]

    assert len(won) == 1
    assert await store.get("claims/one") == won[0]


async def test_a_conditional_put_wins_again_once_the_object_is_gone(store: Store) -> None:
    await store.put("a", b"1", if_absent=True)
    await store.delete("a")

    stat = await store.put("a", b"2", if_absent=True)

    assert stat == await store.stat("a")


async def test_nothing_is_got_from_where_nothing_lies(store: Store, tmp_path: Path) -> None:
    await store.put("a/b", b"1")

    for key in ("a", "a/b/c", "a/c", "b"):
        assert await store.stat(key) is None
        with pytest.raises(NoSuchObject, match=key):
            await store.get(key)
        with pytest.raises(NoSuchObject, match=key):
            await store.get_file(key, tmp_path / "out" / "file")
    assert list((tmp_path / "out").glob("*")) == []


async def test_objects_are_listed_by_prefix_in_the_order_of_keys(store: Store) -> None:
    for key in ("a-b", "a/b", "a.b", "ab", "a/c/d", "a/c-d", "Z", "a0"):
        await store.put(key, b"x" * 7)

    assert await keys(store) == ["Z", "a-b", "a.b", "a/b", "a/c-d", "a/c/d", "a0", "ab"]
    assert await keys(store, "a/") == ["a/b", "a/c-d", "a/c/d"]
    assert await keys(store, "a/c") == ["a/c-d", "a/c/d"]
    assert await keys(store, "a/c/d") == ["a/c/d"]
    assert await keys(store, "nowhere/") == []
    assert {stat.num_bytes async for stat in store.list("")} == {7}


async def test_a_listing_longer_than_a_page_is_complete(store: Store) -> None:
    wanted = [f"many/{number:05d}" for number in range(1_100)]
    await asyncio.gather(*(store.put(key, b"") for key in wanted))

    assert await keys(store, "many/") == wanted


async def test_what_is_deleted_is_gone_and_may_be_deleted_again(store: Store) -> None:
    await store.put("a/b/c", b"1")
    await store.put("a/d", b"2")

    await store.delete("a/b/c")
    await store.delete("a/b/c")
    await store.delete("never/was")

    assert await keys(store) == ["a/d"]


async def test_a_file_of_several_parts_goes_in_and_comes_out_alike(store: Store, tmp_path: Path) -> None:
    data = os.urandom(1 << 20) * 40 + b"the end"
    (tmp_path / "big").write_bytes(data)

    put = await store.put_file("big/file", tmp_path / "big")
    got = await store.get_file("big/file", tmp_path / "new" / "copy")

    assert put == got == await store.stat("big/file") == Stat("big/file", len(data), sha256(data))
    assert (tmp_path / "new" / "copy").read_bytes() == data
    assert os.listdir(tmp_path / "new") == ["copy"]


async def test_bytes_above_a_part_go_in_as_well(store: Store) -> None:
    data = os.urandom(1 << 20) * 17

    await store.put("big", data)
    with pytest.raises(AlreadyThere):
        await store.put("big", data, if_absent=True)

    assert await store.get("big") == data


async def test_getting_into_a_file_replaces_it(store: Store, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old and longer")
    await store.put("a", b"new")

    await store.get_file("a", tmp_path / "file")

    assert (tmp_path / "file").read_bytes() == b"new"


@pytest.mark.parametrize("key", ["", "/a", "a/", "a//b", "../a", "a/../b", "a/.", "a b", "ä", "a\n", "a" * 901])
async def test_a_key_that_stores_would_read_differently_is_refused(store: Store, key: str) -> None:
    with pytest.raises(StoreError, match="cannot be a key"):
        await store.put(key, b"")
    assert await keys(store) == []


async def test_the_event_loop_goes_on_while_a_store_works(store: Store) -> None:
    data = os.urandom(1 << 20) * 8
    late: list[float] = []

    async def tick() -> None:
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            await asyncio.sleep(0.005)
            late.append(loop.time() - began)

    ticking = asyncio.create_task(tick())
    for _ in range(3):
        await store.put("a", data)
        await store.get("a")
    ticking.cancel()

    assert sorted(late)[len(late) * 9 // 10] < 0.1
