"""Records, on both buses."""

import asyncio
import json
from typing import Any

import pytest

from flash.bus import Bus
from flash.records import Records


def plus_one(document: bytes | None) -> bytes:
    return json.dumps(json.loads(document or b"0") + 1).encode()


@pytest.fixture
def records(bus: Bus) -> Records:
    return bus.records("environments")


async def test_a_record_is_what_the_last_update_made_of_it(records: Records) -> None:
    assert await records.get("local/sums") is None

    assert await records.update("local/sums", lambda found: b"first" if found is None else b"wrong") == b"first"
    assert await records.update("local/sums", lambda found: (found or b"") + b", second") == b"first, second"

    assert await records.get("local/sums") == b"first, second"


async def test_a_record_that_becomes_none_is_gone_and_may_come_again(records: Records) -> None:
    await records.update("a", lambda _: b"one")

    assert await records.update("a", lambda _: None) is None
    assert await records.get("a") is None
    assert await records.all() == {}
    assert await records.update("a", lambda found: b"again" if found is None else b"wrong") == b"again"


async def test_those_under_a_name_can_be_had_alone(records: Records) -> None:
    for id in ("local.sums", "local.sums.a", "local.sums.b", "local.sums_2Ev2.a", "other.sums.a"):
        await records.update(id, lambda _: b"x")

    assert sorted(await records.all("local.sums")) == ["local.sums.a", "local.sums.b"]
    assert len(await records.all("local")) == 4
    assert await records.all("nobody") == {}


async def test_all_gives_every_record_of_its_bucket_and_of_no_other(bus: Bus) -> None:
    records, others = bus.records("environments"), bus.records("tokens")
    assert await records.all() == {}

    await records.update("local/sums", lambda _: b"1")
    await records.update("local/v1.2", lambda _: b"")
    await others.update("local/sums", lambda _: b"3")

    assert await records.all() == {"local/sums": b"1", "local/v1.2": b""}


async def test_no_update_is_lost_when_many_update_at_once(side: Any) -> None:
    replicas = [(await side.bus(f"hub:{number}")).records("counters") for number in range(3)]

    await asyncio.gather(*(replicas[number % 3].update("n", plus_one) for number in range(24)))

    assert await replicas[0].get("n") == b"24"


async def test_an_update_that_changes_nothing_is_no_change(records: Records) -> None:
    await records.update("a", lambda _: b"one")

    assert await records.update("a", lambda found: found) == b"one"
    assert await records.update("b", lambda found: found) is None
    assert await records.all() == {"a": b"one"}


async def test_what_an_update_raises_reaches_its_caller_and_changes_nothing(records: Records) -> None:
    await records.update("a", lambda _: b"one")

    def refuse(_: bytes | None) -> bytes:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await records.update("a", refuse)

    assert await records.get("a") == b"one"
