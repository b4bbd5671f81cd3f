"""Few large segments in place of many small ones, and the same rows in them whoever dies, or reads, meanwhile."""

from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flash.contracts.record import RecordClosed, RolloutsAsked, RolloutsExport, RolloutsFind
from flash.contracts.requests import EventsFind
from flash.contracts.steps import StepSaved
from flash.contracts.values import PolicyRef
from services.recorder.merging import KINDS, LIVE_PARTS, worth_merging
from services.recorder.shelf import StoredSegment, apart
from tests.records import recorded

CLOSED = RecordClosed(org="local", run_id="r1", upto=1)
STEPS, GROUPS = 6, 2


def segment(first: int, last: int, num_bytes: int = 1) -> StoredSegment:
    return StoredSegment(f"{first}-{last}", first, last, num_bytes)


def spans(parts: Any) -> list[tuple[int, int]]:
    return [(part.first, part.last) for part in parts]


async def keys(recording: Any, kind: str) -> list[str]:
    return [stat.key.rpartition("/")[2] async for stat in recording.store.list(f"runs/r1/record/{kind}/")]


@pytest.fixture
async def recorder(recording: Any, facts: Any) -> Any:
    """A run that is over, in a segment of its own for every fact."""
    await recording.own()
    recorder = recording.recorder(segment_bytes=1)
    for event in facts().whole(STEPS, GROUPS):
        await recording.bus.publish(event)
    async for entry in recording.bus.entries("flash.>"):
        recorder.writer.book.add(entry)
        await recorder.writer.cut()
        if entry.subject.split(".")[2] == "completed":
            break
    return recorder


async def test_a_closed_record_is_one_segment_of_each_kind_with_the_same_rows(recording: Any, recorder: Any) -> None:
    before = {kind: await recorded(recording.store, kind) for kind in KINDS}
    assert len(await keys(recording, "events")) > 20

    await recorder._merger.on_record_closed(CLOSED)

    assert {kind: await recorded(recording.store, kind) for kind in KINDS} == before
    [events], [rollouts] = await keys(recording, "events"), await keys(recording, "rollouts")
    assert events == f"{1:012d}-{len(before['events']):012d}.parquet"
    file = pq.ParquetFile(BytesIO(await recording.store.get(f"runs/r1/record/rollouts/{rollouts}")))
    assert (file.num_row_groups, file.metadata.num_rows) == (1, 2 * STEPS * GROUPS)


async def test_merging_again_does_nothing(recording: Any, recorder: Any) -> None:
    await recorder._merger.on_record_closed(CLOSED)
    before = await keys(recording, "events")

    await recorder._merger.on_record_closed(CLOSED)

    assert await keys(recording, "events") == before


async def test_parts_that_one_left_behind_who_died_are_read_by_nobody_and_go(recording: Any, recorder: Any) -> None:
    parts = {stat.key: await recording.store.get(stat.key) async for stat in recording.store.list("runs/r1/record/")}
    await recorder._merger.on_record_closed(CLOSED)
    whole = await recorded(recording.store, "events")
    for key, data in list(parts.items())[3:]:
        await recording.store.put(key, data)

    page = await recorder.answers()[RolloutsFind](RolloutsFind(org="local", run_id="r1", limit=1))
    told = await recorder.answers()[EventsFind](EventsFind(org="local", run_id="r1", nouns=["group"]))

    assert page.total == 2 * STEPS * GROUPS
    assert len({event.sequence for event in told.events}) == len(told.events)
    await recorder._merger.on_record_closed(CLOSED)
    assert await recorded(recording.store, "events") == whole


async def test_who_reads_while_segments_are_merged_reads_them_all(recording: Any, recorder: Any) -> None:
    get_file = recording.store.get_file
    merged = False

    async def meanwhile(key: str, path: Path) -> Any:
        nonlocal merged
        if not merged:
            merged = True
            await recorder._merger.on_record_closed(CLOSED)
        return await get_file(key, path)

    recording.store.get_file = meanwhile

    asked = RolloutsExport(org="local", run_id="r1")
    exported = b"".join([part.data async for part in recorder.answers()[RolloutsExport](asked)])

    assert merged
    assert isinstance(asked, RolloutsAsked)
    assert pq.read_table(BytesIO(exported)).num_rows == 2 * STEPS * GROUPS


async def test_a_run_that_goes_on_is_merged_when_it_has_many_small_segments(recording: Any, recorder: Any) -> None:
    saved = StepSaved(org="local", run_id="r1", attempt=1, step=2, key="k", policy=PolicyRef())
    events, rollouts = await keys(recording, "events"), await keys(recording, "rollouts")
    assert len(rollouts) < LIVE_PARTS <= len(events)

    await recorder._merger.on_step_saved(saved)

    assert len(await keys(recording, "events")) == 1
    assert await keys(recording, "rollouts") == rollouts


def test_neighbours_are_merged_until_they_are_large() -> None:
    sizes = [3, 4, 5, 20, 1, 1, 9, 2, 2]
    segments = [segment(at, at, size) for at, size in enumerate(sizes, start=1)]

    def merged(at_least: int) -> list[list[tuple[int, int]]]:
        return [spans(parts) for parts in worth_merging(segments, target_bytes=10, at_least=at_least)]

    assert merged(9) == [[(1, 1), (2, 2), (3, 3)], [(5, 5), (6, 6), (7, 7)]]
    assert merged(2) == [*merged(9), [(8, 8), (9, 9)]]


@given(st.lists(st.integers(1, 30), max_size=60), st.data())
def test_two_who_merge_at_once_never_take_half_of_anothers(sizes: list[int], data: st.DataObject) -> None:
    segments = [segment(at, at, size) for at, size in enumerate(sizes, start=1)]
    seen = data.draw(st.integers(0, len(segments)))
    one, other = (
        [(parts[0].first, parts[-1].last) for parts in worth_merging(known, target_bytes=20, at_least=3)]
        for known in (segments, segments[:seen])
    )

    for first, last in one:
        for begin, end in other:
            apart_or_within = last < begin or end < first or (first <= begin and end <= last)
            assert apart_or_within or (begin <= first and last <= end)


def test_a_part_of_a_merged_segment_is_told_by_its_name() -> None:
    whole, parts = apart([segment(5, 9), segment(1, 4), segment(2, 2), segment(10, 12), segment(5, 6), segment(1, 2)])

    assert spans(whole) == [(1, 4), (5, 9), (10, 12)]
    assert spans(parts) == [(1, 2), (2, 2), (5, 6)]
