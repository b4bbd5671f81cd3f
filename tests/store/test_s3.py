"""What is true of the store in a bucket, on a real S3 server."""

import asyncio
import io
import uuid
from pathlib import Path
from typing import Any

import pytest
import urllib3

from flash.store import AlreadyThere, Damaged, StoreError, open_store
from flash.store.s3 import S3Store
from tests.store.conftest import Weed, new_weed


def some_bucket() -> str:
    return f"bucket-{uuid.uuid4().hex[:12]}"


async def test_damage_is_noticed_when_it_is_read(weed: Weed, tmp_path: Path) -> None:
    bucket = some_bucket()
    store = await S3Store.connect(weed.url(bucket))
    store._client.put_object(bucket, "a", io.BytesIO(b"x"), 1, metadata={"sha256": "0" * 64})
    store._client.put_object(bucket, "b", io.BytesIO(b"x"), 1)

    for key in ("a", "b"):
        with pytest.raises(Damaged, match=key):
            await store.get(key)
        with pytest.raises(Damaged, match=key):
            await store.get_file(key, tmp_path / "out" / "file")
    assert list((tmp_path / "out").iterdir()) == []


async def test_a_bucket_that_many_open_at_once_is_made_once(weed: Weed) -> None:
    url = weed.url(some_bucket())

    stores = await asyncio.gather(*(open_store(url) for _ in range(8)))
    await stores[0].put("a", b"1")

    assert {await store.get("a") for store in stores} == {b"1"}


async def test_a_conditional_put_whose_answer_was_lost_counts_as_won(
    weed: Weed, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await S3Store.connect(weed.url(some_bucket()))
    really = store._client._execute
    lost: list[Any] = []

    def lose_the_first_answer(*args: Any, **kwargs: Any) -> Any:
        answer = really(*args, **kwargs)
        if args[0] == "PUT" and not lost:
            lost.append(args)
            raise urllib3.exceptions.ProtocolError("the connection was lost")
        return answer

    monkeypatch.setattr(store._client, "_execute", lose_the_first_answer)

    await store.put("a", b"ours", if_absent=True)

    assert lost
    assert await store.get("a") == b"ours"
    with pytest.raises(AlreadyThere):
        await store.put("a", b"ours", if_absent=True)


async def test_a_wrong_secret_is_refused_at_once_and_never_shown(weed: Weed) -> None:
    url = weed.url(some_bucket()).replace("s" * 20, "hush" * 5)

    with pytest.raises(StoreError) as refused:
        await open_store(url)
    assert "hush" not in str(refused.value)


@pytest.mark.parametrize("url", ["s3://host:1/bucket", "s3://a:b@host:1", "s3://a:b@host:1/bucket?tsl=1"])
async def test_a_url_that_says_too_little_or_too_much_is_refused(url: str) -> None:
    with pytest.raises(StoreError, match="s3://ACCESS:SECRET@host:port/bucket"):
        await open_store(url)


async def test_a_server_that_stays_away_is_an_error_that_says_so() -> None:
    with pytest.raises(StoreError, match="cannot be used"):
        await S3Store.connect("s3://a:b@127.0.0.1:9/bucket", retry_s=0.2)


@pytest.mark.slow
async def test_whoever_asks_waits_while_the_server_is_killed_and_started_again(tmp_path: Path) -> None:
    weed = new_weed(tmp_path)
    weed.start()
    try:
        store = await S3Store.connect(weed.url("flash"))
        for number in range(20):
            await store.put(f"before/{number}", b"%d" % number)
        weed.kill()
        asked = [asyncio.create_task(store.put(f"during/{number}", b"%d" % number)) for number in range(4)]
        asked_too = asyncio.create_task(store.get("before/7"))
        await asyncio.sleep(0.3)
        weed.start()
        await asyncio.gather(*asked)

        assert await asked_too == b"7"
        assert [await store.get(f"before/{number}") for number in range(20)] == [b"%d" % n for n in range(20)]
        assert len([stat async for stat in store.list("during/")]) == 4
    finally:
        weed.kill()
