"""What is true of the store in a folder."""

import os
from pathlib import Path

import pytest

from flash.store import AlreadyThere, Damaged, Stat, StoreError
from flash.store.files import FileStore
from flash.store.whole import digest_of


async def test_damage_is_noticed_when_it_is_read(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    await store.put("a/b", b"right")
    (tmp_path / "objects" / "a" / "b").write_bytes(b"wrong")

    with pytest.raises(Damaged, match="a/b"):
        await store.get("a/b")
    with pytest.raises(Damaged, match="a/b"):
        await store.get_file("a/b", tmp_path / "out" / "file")
    assert os.listdir(tmp_path / "out") == []


async def test_content_that_is_missing_is_damage(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    await store.put("a", b"1")
    (tmp_path / "objects" / "a").resolve().unlink()

    with pytest.raises(Damaged):
        await store.get("a")


@pytest.mark.parametrize("step", ["rename", "symlink_to", "replace", "unlink"])
async def test_a_death_in_the_middle_of_a_put_leaves_the_old_object_or_the_new(
    tmp_path: Path, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FileStore(tmp_path)
    await store.put("a", b"old")

    class Died(BaseException):
        pass

    def die(*_: object, **__: object) -> None:
        raise Died

    with monkeypatch.context() as patch:
        patch.setattr(Path, step, die)
        with pytest.raises(Died):
            await store.put("a", b"new")

    found = await FileStore(tmp_path).get("a")
    assert found in (b"old", b"new")
    assert [stat async for stat in store.list("")] == [Stat("a", 3, digest_of(found))]
    await store.put("a", b"newer")
    assert await store.get("a") == b"newer"


async def test_two_stores_on_one_folder_are_one_store(tmp_path: Path) -> None:
    await FileStore(tmp_path).put("a", b"1")

    assert await FileStore(tmp_path).get("a") == b"1"
    with pytest.raises(AlreadyThere):
        await FileStore(tmp_path).put("a", b"2", if_absent=True)


async def test_nothing_stays_behind_but_the_objects(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    for number in range(3):
        await store.put("a/b/c", b"%d" % number)
    await store.put("d", b"4")
    await store.delete("a/b/c")

    content = [path for path in (tmp_path / "content").rglob("*") if path.is_file()]
    assert [path.read_bytes() for path in content] == [b"4"]
    assert os.listdir(tmp_path / "objects") == ["d"]


async def test_a_folder_that_may_not_be_written_to_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(StoreError, match="file"):
        await FileStore(tmp_path / "file").put("a", b"1")


async def test_a_key_cannot_lie_below_another_object(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    await store.put("a", b"1")

    with pytest.raises(StoreError):
        await store.put("a/b", b"2")
    assert await store.get("a") == b"1"
