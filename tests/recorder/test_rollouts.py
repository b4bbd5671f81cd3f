"""Rollouts are found by what they are, whoever asks how, and only those of the run."""

import asyncio
import os
import time
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from flash.bus import Entry
from flash.contracts.packing import unpack_ids
from flash.contracts.record import RecordedRollout, RolloutsExport, RolloutsFind
from flash.errors import NotFound, Refused
from services.recorder.duck import answer, connect
from services.recorder.parquet import ScoredGroup, rollouts_file
from services.recorder.query import SHOWN, query


def asked(**fields: Any) -> RolloutsFind:
    return RolloutsFind(org="local", run_id="r1", **fields)


def named(rollouts: list[RecordedRollout]) -> list[str]:
    return [f"{rollout.group_id}/{rollout.index}" for rollout in rollouts]


@pytest.fixture
async def written(recording: Any, facts: Any) -> Any:
    """Three steps of two groups: the first two steps in segments, the rest in memory, the third not finished."""
    said = facts().whole()
    await recording.own()
    recorder = recording.recorder(segment_bytes=1)
    await recording.bus.answer("recorder", recorder.answers())
    watching = asyncio.create_task(recorder.watch())
    await recording.bus.publish(*said[:-2])
    for _ in range(400):
        if recorder.writer.book.written >= len(said) - 2:
            break
        await asyncio.sleep(0.02)
    watching.cancel()
    await asyncio.wait({watching})
    return recording


async def test_all_are_found_in_the_order_of_their_steps_written_or_not(written: Any) -> None:
    found = await written.bus.ask(asked())

    order = [f"train-{step}-{group}/{index}" for step in (1, 2, 3) for group in (0, 1) for index in (0, 1)]
    assert named(found.rollouts) == order
    assert found.total == 12
    assert [rollout.advantage for rollout in found.rollouts if rollout.index == 0] == [1.5, 1.5, 2.5, 2.5, None, None]


async def test_a_rollout_is_found_whole(written: Any, facts: Any) -> None:
    found = await written.bus.ask(asked(group_id="train-2-1", index=0, tokens=True))

    [rollout] = found.rollouts
    assert rollout.prompt == [{"role": "user", "content": "1 + 1 = ? "}]
    assert rollout.completion == [{"role": "assistant", "content": "<think>2</think>2"}]
    assert (rollout.reward, rollout.metrics, rollout.fault) == (2.0, {"exact": 1.0}, None)
    assert rollout.token_ids == unpack_ids(facts().scored(2, 1).rollouts[0].token_ids)
    assert rollout.mask == [1, 1, 0]


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({"step": 2, "example": "row-1"}, ["train-2-1/0", "train-2-1/1"]),
        ({"min_reward": 3.0}, ["train-3-0/0", "train-3-1/0"]),
        ({"max_reward": 1.0, "limit": 1}, ["train-1-0/0"]),
        ({"faults": True, "sort": ["-step"], "limit": 2}, ["train-3-0/1", "train-3-1/1"]),
        ({"sort": ["-reward", "example_id"], "limit": 3, "offset": 1}, ["train-3-1/0", "train-2-0/0", "train-2-1/0"]),
        ({"where": "completion LIKE '%<think>2</think>2%'"}, ["train-2-1/0"]),
        ({"where": "reward > 2 AND example_id = 'row-0' -- the best"}, ["train-3-0/0"]),
        ({"where": "reward = (SELECT max(reward) FROM rollouts)"}, ["train-3-0/0", "train-3-1/0"]),
        ({"where": "metrics->>'$.exact' = '1.0'", "limit": 1}, ["train-1-0/0"]),
        ({"where": "len(token_ids) = 3 AND list_contains(token_ids, 3)", "limit": 1}, ["train-3-0/0"]),
        ({"where": "step > 9"}, []),
    ],
    ids=str,
)  # fmt: skip
async def test_rollouts_are_filtered_sorted_and_counted(written: Any, fields: Any, found: list[str]) -> None:
    page = await written.bus.ask(asked(**fields))

    assert named(page.rollouts) == found
    assert page.total == (await written.bus.ask(asked(**(fields | {"limit": 1_000, "offset": 0})))).total >= len(found)


HOSTILE = {
    "reads a file": "EXISTS (SELECT * FROM read_csv('/etc/passwd'))",
    "reads a file as text": "(SELECT content FROM read_text('/etc/passwd')) <> ''",
    "reads a file by name": "EXISTS (SELECT * FROM '/etc/passwd')",
    "lists a folder": "EXISTS (SELECT * FROM glob('/etc/*'))",
    "reads another run": "EXISTS (SELECT * FROM read_parquet('/tmp/*/r2/*.parquet'))",
    "reads the settings": "EXISTS (SELECT * FROM duckdb_settings())",
    "asks the network": "EXISTS (SELECT * FROM read_csv('http://127.0.0.1:1/x'))",
    "runs a query in words": "EXISTS (SELECT * FROM query('SELECT 1'))",
    "attaches a database": "true); ATTACH '/tmp/flash-test.db' AS x; SELECT (true",
    "sets a setting": "true); SET enable_external_access = true; SELECT (true",
    "writes a file": "true); COPY rollouts TO '/tmp/flash-test.csv'; SELECT (true",
    "installs an extension": "true); INSTALL httpfs; SELECT (true",
    "joins by a union": "true) UNION SELECT * FROM rollouts WHERE (true",
    "groups": "true) GROUP BY (step",
    "reads a table of Python's": "EXISTS (SELECT * FROM asked)",
    "is no SQL": "reward >",
    "names no column": "rewrd > 1",
    "divides words": "prompt / 2 = 1",
}


@pytest.mark.parametrize("where", HOSTILE.values(), ids=HOSTILE.keys())
async def test_a_condition_that_is_more_than_one_over_rollouts_is_refused_in_one_sentence(
    written: Any, where: str, tmp_path: Path
) -> None:
    with pytest.raises(Refused, match="the condition ") as refused:
        await written.bus.ask(asked(where=where.replace("/tmp/flash-test", f"{tmp_path}/made")))

    assert "\n" not in str(refused.value)
    assert not any(name.startswith("made") for name in os.listdir(tmp_path))


@pytest.mark.parametrize(
    "outside",
    [
        "read_text('/etc/passwd')", "read_csv('/etc/passwd', header=false)", "glob('/etc/*')",
        "read_parquet('/tmp/*.parquet')",
    ],
)  # fmt: skip
def test_a_condition_that_were_let_through_would_still_open_no_file(
    tmp_path: Path, outside: str, monkeypatch: pytest.MonkeyPatch, facts: Any
) -> None:
    scored = facts().scored(1, 0)
    file = tmp_path / "1.parquet"
    file.write_bytes(rollouts_file([ScoredGroup(Entry(1, 0.0, scored.subject, "", "", scored.encode()))]))
    monkeypatch.setattr("services.recorder.duck.check", lambda database, where: None)
    where = f"EXISTS (SELECT * FROM {outside})"

    found = answer(query(asked(where=where), [str(file)], within_s=5.0, columns="step", limit=1), 256)

    assert "disabled by configuration" in found.refused


@pytest.mark.parametrize(
    "where",
    ["length(repeat('x', 4000000000)) > 0", "len(range(3000000000)) > 0"],
    ids=["a long text", "a long list"],
)
async def test_a_condition_that_wants_too_much_memory_is_refused_and_the_next_is_answered(
    written: Any, where: str
) -> None:
    with pytest.raises(Refused, match="memory"):
        await written.bus.ask(asked(where=where))

    assert (await written.bus.ask(asked(limit=1))).total == 12


async def test_a_condition_that_does_not_end_is_refused_and_the_next_is_answered(recording: Any, facts: Any) -> None:
    await recording.own()
    recorder = recording.recorder(find_s=2.0)
    await recording.bus.answer("recorder", recorder.answers())
    recorder.writer.book.add(entry(facts().scored(1, 0)))
    endless = "(SELECT count(*) FROM rollouts a, " + ", ".join(f"rollouts b{n}" for n in range(40)) + ") > 0"

    with pytest.raises(Refused, match="longer than 2 s"):
        await recording.bus.ask(asked(where=endless), 30.0)

    assert (await recording.bus.ask(asked(), 30.0)).total == 2


async def test_a_condition_on_a_column_that_is_not_there_is_refused_with_those_that_are(written: Any) -> None:
    with pytest.raises(Refused, match="The columns are step, group_id, index"):
        await written.bus.ask(asked(where="rewrd > 1"))


async def test_a_column_that_cannot_be_sorted_by_is_refused_with_those_that_can(written: Any) -> None:
    with pytest.raises(Refused, match="'prompt': the columns are step, index, example_id, reward"):
        await written.bus.ask(asked(sort=["prompt"]))


@pytest.mark.parametrize("kind", [RolloutsFind, RolloutsExport])
@pytest.mark.parametrize(("org", "run_id"), [("local", "r9"), ("other", "r1")])
async def test_somebody_elses_run_is_not_there(written: Any, kind: Any, org: str, run_id: str) -> None:
    with pytest.raises(NotFound, match=f"there is no run {run_id}"):
        async for _ in written.bus.stream(kind(org=org, run_id=run_id)):
            pass


async def test_an_answer_is_no_larger_than_a_page_and_the_rest_is_had_by_asking_on(recording: Any, facts: Any) -> None:
    await recording.own()
    recorder = recording.recorder(page_bytes=5_000)
    await recording.bus.answer("recorder", recorder.answers())
    for number in range(4):
        recorder.writer.book.add(entry(facts().scored(1, number, padding=1_500), number + 1))

    first = await recording.bus.ask(asked())
    rest = await recording.bus.ask(asked(offset=len(first.rollouts), limit=100))

    assert 0 < len(first.rollouts) < 8 == first.total
    assert (
        named([*first.rollouts, *rest.rollouts])[: len(first.rollouts) + 1]
        == [f"train-1-{group}/{index}" for group in range(4) for index in (0, 1)][: len(first.rollouts) + 1]
    )


async def test_a_group_written_by_another_recorder_meanwhile_is_found_once(recording: Any, facts: Any) -> None:
    await recording.own()
    behind = recording.recorder("behind")
    await recording.bus.answer("recorder", behind.answers())
    said = facts().whole(steps=1, groups=2)
    for number, event in enumerate(said, start=1):
        behind.writer.book.add(entry(event, number))
    await recording.bus.publish(*said)
    ahead = asyncio.create_task(recording.recorder("ahead", segment_s=0.01).watch())
    for _ in range(400):
        if [stat async for stat in recording.store.list("runs/r1/record/events/")]:
            break
        await asyncio.sleep(0.02)
    ahead.cancel()

    assert named((await recording.bus.ask(asked())).rollouts) == [
        "train-1-0/0", "train-1-0/1", "train-1-1/0", "train-1-1/1",
    ]  # fmt: skip


async def exported(bus: Any, **fields: Any) -> bytes:
    parts = [part.data async for part in bus.stream(RolloutsExport(org="local", run_id="r1", **fields))]
    return b"".join(parts)


async def test_an_export_has_the_columns_of_the_record_and_the_rows_that_are_asked_for(written: Any) -> None:
    whole = pq.read_table(BytesIO(await exported(written.bus)))
    some = pq.read_table(BytesIO(await exported(written.bus, where="reward >= 2", sort=["-reward"])))

    assert whole.num_rows == 12
    assert set(SHOWN) < set(whole.column_names)
    assert some["reward"].to_pylist() == [3.0, 3.0, 2.0, 2.0]
    assert whole["token_ids"][0].as_py() == [1, 0, 0]


@pytest.mark.parametrize(("into", "spills"), [("out.parquet", "out.parquet.sorting"), ("", "")])
def test_an_export_may_be_sorted_on_disk_and_an_answer_may_not(
    tmp_path: Path, facts: Any, into: str, spills: str
) -> None:
    scored = tmp_path / "1.parquet"
    scored.write_bytes(rollouts_file([ScoredGroup(entry(facts().scored(1, 0)))]))
    wanted = str(tmp_path / into) if into else ""

    with connect(query(asked(), [str(scored)], within_s=5.0, into=wanted), 256) as database:
        [[folder]] = database.execute("SELECT current_setting('temp_directory')").fetchall()

    assert folder == (str(tmp_path / spills) if spills else "")


async def test_an_export_is_opened_by_pandas_and_by_datasets(written: Any, tmp_path: Path) -> None:
    pandas, datasets = pytest.importorskip("pandas"), pytest.importorskip("datasets")
    file = tmp_path / "rollouts.parquet"
    file.write_bytes(await exported(written.bus))

    frame = pandas.read_parquet(file)
    rows = datasets.load_dataset("parquet", data_files=str(file), cache_dir=str(tmp_path / "cache"))["train"]

    assert frame["reward"].max() == 3.0
    assert list(frame["logprobs"][0]) == [-0.5, -0.25, 0.0]
    assert rows.num_rows == 12
    assert rows[0]["token_ids"] == [1, 0, 0]


async def test_segments_that_were_not_used_for_long_make_room_on_this_machine(written: Any) -> None:
    recorder = written.recorder("small", cache_bytes=0)
    await written.bus.answer("recorder", recorder.answers())

    assert (await recorder._rollouts.find(asked())).total == 8, "what is not written, another recorder knows"
    assert list((written.home / "small").rglob("*.parquet")) == []


async def test_what_a_recorder_that_died_left_behind_is_removed_once_it_is_old(recording: Any) -> None:
    left, new = recording.home / "1/record/asked/left", recording.home / "1/record/asked/new"
    for folder in (left, new):
        folder.mkdir(parents=True)
        (folder / "tail.parquet").write_bytes(b"PAR1")
    os.utime(left, (0.0, 0.0))

    watching = asyncio.create_task(recording.recorder().watch())
    for _ in range(200):
        if not os.path.exists(left):  # noqa: ASYNC240
            break
        await asyncio.sleep(0.02)
    watching.cancel()

    assert os.listdir(recording.home / "1/record/asked") == ["new"]


def entry(event: Any, sequence: int = 1) -> Entry:
    return Entry(sequence, time.time(), event.subject, "", "", event.encode())
