"""The record is lossless, and whoever dies while it is written, it has neither gap nor double."""

import asyncio
from contextlib import suppress
from io import BytesIO
from typing import Any

import msgspec
import pyarrow.parquet as pq
import pytest

from flash.bus.memory import MemoryBus
from flash.bus.wire import Letter
from flash.contracts.catalogue import kind_of
from flash.contracts.packing import pack_floats, unpack_floats, unpack_ids
from flash.contracts.record import RecordClosed
from flash.contracts.usage import UsageSum, Used
from services.recorder import writing
from services.recorder.usage import Usage

EVENTS = ["sequence", "time", "subject", "message_id", "caused_by", "body"]
ROLLOUTS = [
    "step", "group_id", "index", "example_id", "prompt", "completion", "prompt_ids", "token_ids", "logprobs", "mask",
    "reward", "advantage", "metrics", "fault", "policy_version", "environment_version", "finish_reason",
]  # fmt: skip


class Killed(BaseException):
    """What a process does not survive."""


async def until_closed(bus: MemoryBus, run_id: str = "r1", within_s: float = 20.0) -> None:
    async with asyncio.timeout(within_s):
        async for _ in bus.replay(RecordClosed.pattern(org="local", run_id=run_id)):
            return


async def record(store: Any, kind: str, run_id: str = "r1") -> list[dict[str, Any]]:
    """Every row of a run's record, in the order of its segments."""
    rows: list[dict[str, Any]] = []
    async for stat in store.list(f"runs/{run_id}/record/{kind}/"):
        rows += pq.read_table(BytesIO(await store.get(stat.key))).to_pylist()
    return rows


async def stream(bus: MemoryBus, run_id: str = "r1") -> list[int]:
    """The sequence of every fact of a run, but for what was said of its record."""
    told = [t async for t in bus.history("flash.>")]
    return [t.sequence for t in told if t.event.run_id == run_id and not isinstance(t.event, RecordClosed)]  # type: ignore[attr-defined]


async def written_whole(recording: Any, *run_ids: str, **settings: Any) -> None:
    watching = asyncio.create_task(recording.recorder(**settings).watch())
    try:
        for run_id in run_ids or ("r1",):
            await until_closed(recording.bus, run_id)
    finally:
        watching.cancel()
        await asyncio.wait({watching})


async def holds(recording: Any, steps: int = 3, groups: int = 2) -> None:
    """What is true of a record whatever happened while it was written."""
    events, rollouts = await record(recording.store, "events"), await record(recording.store, "rollouts")
    assert [row["sequence"] for row in events] == await stream(recording.bus)
    assert sorted((row["group_id"], row["index"]) for row in rollouts) == [
        (f"train-{step}-{group}", index) for step in range(1, steps + 1) for group in range(groups) for index in (0, 1)
    ]
    assert [row["advantage"] for row in rollouts if row["index"] == 0] == [
        step + 0.5 for step in range(1, steps + 1) for _ in range(groups)
    ]
    counted = await Usage(recording.bus.records("usage")).on_usage_sum(UsageSum(org="local", by="run"))
    assert {row.name: row.used for row in counted.rows}["r1"] == Used(
        steps=steps, rollouts=2 * groups * steps, sampled_tokens=4 * groups * steps,
        trained_tokens=sum(10 * step for step in range(1, steps + 1)),
    )  # fmt: skip


async def test_every_fact_is_written_word_for_word_large_ones_too(recording: Any, facts: Any) -> None:
    f = facts()
    said = [*f.whole(steps=1, groups=1)[:-1], f.scored(2, 0, text="x" * 600_000), f.whole()[-1]]
    for event in said:
        await recording.bus.publish(event, caused_by="because")

    await written_whole(recording)

    rows = await record(recording.store, "events")
    assert list(rows[0]) == EVENTS
    assert [kind_of(row["subject"]).decode(row["body"]) for row in rows] == said
    assert [row["body"] for row in rows] == [event.encode() for event in said]
    assert [row["subject"] for row in rows] == [event.subject for event in said]
    assert {row["caused_by"] for row in rows} == {"because"}
    assert len({row["message_id"] for row in rows}) == len(said)
    told = [t async for t in recording.bus.history("flash.>")]
    assert [row["time"].timestamp() for row in rows] == pytest.approx([t.time for t in told[: len(said)]], abs=1e-5)


async def test_every_rollout_is_a_row_that_can_be_read_without_flash(recording: Any, facts: Any) -> None:
    f = facts()
    await recording.bus.publish(*f.whole(steps=1, groups=1))

    await written_whole(recording)

    first, faulted = await record(recording.store, "rollouts")
    scored = f.scored(1, 0)
    assert list(first) == ROLLOUTS
    assert first == {
        "step": 1, "group_id": "train-1-0", "index": 0, "example_id": "row-0",
        "prompt": '[{"role":"user","content":"0 + 0 = ? "}]',
        "completion": '[{"role":"assistant","content":"<think>1</think>0"}]',
        "prompt_ids": unpack_ids(scored.prompt_ids), "token_ids": unpack_ids(scored.rollouts[0].token_ids),
        "logprobs": unpack_floats(pack_floats([-0.5, -0.25, 0.0])), "mask": [1, 1, 0], "reward": 1.0,
        "advantage": 1.5, "metrics": '{"exact":1.0}', "fault": None, "policy_version": 0,
        "environment_version": "abc123", "finish_reason": "stop",
    }  # fmt: skip
    assert faulted["reward"] is None
    assert '"kind":"raised"' in faulted["fault"]


@pytest.mark.parametrize("point", ["planned", "segment-stored", "segment-stored:2", "recorded"])
@pytest.mark.parametrize("segment_bytes", [1, 2_000, 1 << 20])
async def test_a_recorder_that_dies_at_any_point_leaves_neither_gap_nor_double(
    recording: Any, facts: Any, monkeypatch: pytest.MonkeyPatch, point: str, segment_bytes: int
) -> None:
    at, _, nth = point.partition(":")
    passed = 0

    def die(name: str) -> None:
        nonlocal passed
        passed += name == at
        if passed == int(nth or 1):
            passed += 1
            raise Killed

    monkeypatch.setattr(writing.chaos, "point", die)
    said, other = facts().whole(), facts("r2").whole()
    await recording.bus.publish(*said[:9], *other[:5])
    with suppress(BaseExceptionGroup):
        await asyncio.wait_for(recording.recorder("a", segment_bytes=segment_bytes, segment_s=0.01).watch(), 20.0)
    await recording.bus.publish(*said[9:], *other[5:])

    await written_whole(recording, "r1", "r2", segment_bytes=segment_bytes)

    await holds(recording)
    assert passed > int(nth or 1), "the point was never passed"
    assert len(await record(recording.store, "rollouts", "r2")) == 12


async def test_two_recorders_at_once_write_what_one_would(recording: Any, facts: Any) -> None:
    watching = [
        asyncio.create_task(recording.recorder(name, segment_bytes=size).watch())
        for name, size in (("a", 700), ("b", 1_500))
    ]

    for event in facts().whole(steps=8, groups=2):
        await recording.bus.publish(event)
        await asyncio.sleep(0.002)
    await until_closed(recording.bus)
    for task in watching:
        task.cancel()
    await asyncio.wait(watching)

    await holds(recording, steps=8)


async def test_what_comes_after_the_end_gets_a_further_segment(recording: Any, facts: Any) -> None:
    f = facts()
    await recording.bus.publish(*f.whole())
    await written_whole(recording)

    await recording.bus.publish(f.scored(4, 0))
    watching = asyncio.create_task(recording.recorder("b", segment_s=0.01).watch())
    for _ in range(200):
        if len(await record(recording.store, "rollouts")) == 14:
            break
        await asyncio.sleep(0.05)
    watching.cancel()

    assert [row["sequence"] for row in await record(recording.store, "events")] == await stream(recording.bus)


async def test_facts_that_are_not_what_they_should_be_are_kept_word_for_word_and_stop_nobody(
    recording: Any, facts: Any
) -> None:
    f = facts()
    uneven = msgspec.structs.replace(f.scored(1, 0), verdicts=[])
    torn = msgspec.structs.replace(f.scored(1, 1), prompt_ids=b"abc")
    odd = Letter(f.finished(1, 3).subject, {}, b'{"step": "one"}')
    await recording.bus.publish(uneven, torn, f.scored(1, 2))
    recording.bus.shared.append(odd, expect=0, over=odd.subject)
    await recording.bus.publish(f.whole()[-1])

    await written_whole(recording)

    assert [row["body"] for row in await record(recording.store, "events")][:4] == [
        uneven.encode(), torn.encode(), f.scored(1, 2).encode(), odd.body,
    ]  # fmt: skip
    assert {row["group_id"] for row in await record(recording.store, "rollouts")} == {"train-1-2"}


async def test_no_more_is_kept_in_memory_than_four_segments(recording: Any, facts: Any) -> None:
    recorder = recording.recorder(segment_bytes=10_000)
    f = facts()
    most = 0
    put = recorder.writer._shelf.put

    async def slow(*args: Any) -> None:
        nonlocal most
        await asyncio.sleep(0.01)
        most = max(most, recorder.writer.book.num_bytes)
        await put(*args)

    recorder.writer._shelf.put = slow
    await recording.bus.publish(*(f.scored(1, group, scope="eval", padding=2_000) for group in range(100)))
    await recording.bus.publish(f.whole()[-1])

    watching = asyncio.create_task(recorder.watch())
    await until_closed(recording.bus)
    watching.cancel()

    assert 10_000 <= most < 45_000
    assert len(await record(recording.store, "rollouts")) == 200
