"""Facts as Parquet, to be used without Flash. This file and no other imports pyarrow.

`events`: one row a fact of the run, its body word for word (JSON, or MessagePack for `group.*`). `rollouts`: one row a
rollout; `prompt` and `completion` are chat messages, `metrics` and `fault` objects, all four as JSON text.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import structlog

from flash.bus import Entry
from flash.contracts.groups import GroupScored
from flash.contracts.values import Message, Metric, Rollout

log = structlog.get_logger()

Kind = Literal["events", "rollouts"]

EVENTS = pa.schema(
    [
        ("sequence", pa.int64()), ("time", pa.timestamp("us", tz="UTC")), ("subject", pa.string()),
        ("message_id", pa.string()), ("caused_by", pa.string()), ("body", pa.binary()),
    ]
)  # fmt: skip

ROLLOUTS = pa.schema(
    [
        ("step", pa.int32()), ("group_id", pa.string()), ("index", pa.int32()), ("example_id", pa.string()),
        ("prompt", pa.string()), ("completion", pa.string()), ("prompt_ids", pa.list_(pa.int32())),
        ("token_ids", pa.list_(pa.int32())), ("logprobs", pa.list_(pa.float32())), ("mask", pa.list_(pa.uint8())),
        ("reward", pa.float64()), ("advantage", pa.float64()), ("metrics", pa.string()), ("fault", pa.string()),
        ("policy_version", pa.int32()), ("environment_version", pa.string()), ("finish_reason", pa.string()),
    ]
)  # fmt: skip

ROWS_READ_TOGETHER = 512
"""Rows of a row group: few, so that one rollout is found without reading many."""
BYTES_READ_TOGETHER = 32 << 20
"""How large a row group of a merged segment grows: facts may be large."""


@dataclass(frozen=True)
class ScoredGroup:
    """A group as it is written down."""

    entry: Entry
    """Its `group.scored`."""
    advantages: Sequence[float] | None = None
    """[G]; None where no step has used it."""

    @property
    def id(self) -> str:
        """`<train|eval>-<step>-<group>`."""
        return "-".join(self.entry.subject.split(".")[-3:])


def events_file(entries: Sequence[Entry]) -> bytes:
    columns = {
        "sequence": [entry.sequence for entry in entries],
        "time": pa.array([round(entry.time * 1e6) for entry in entries], EVENTS.field("time").type),
        "subject": [entry.subject for entry in entries],
        "message_id": [entry.message_id for entry in entries],
        "caused_by": [entry.caused_by for entry in entries],
        "body": [entry.body for entry in entries],
    }
    return _file(pa.table(columns, EVENTS))


def rollouts_file(groups: Iterable[ScoredGroup]) -> bytes:
    return _file(_rollouts(list(_rows(groups))))


def read_events(path: Path, wanted: Callable[[int, str], bool]) -> Iterator[Entry]:
    """The facts of a segment whose sequence and subject are `wanted`, in order."""
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=64):
            for row in batch.to_pylist():
                if wanted(row["sequence"], row["subject"]):
                    yield Entry(**(row | {"time": row["time"].timestamp()}))


def merge(parts: Sequence[Path], into: Path) -> int:
    """One file with the rows of all, in order; gives how many. No more of them is in memory than a row group."""
    held: list[pa.RecordBatch] = []
    with pq.ParquetWriter(into, pq.read_schema(parts[0]), compression="zstd") as file:

        def write(batches: Sequence[pa.RecordBatch]) -> None:
            if batches:
                table = pa.Table.from_batches(batches)
                file.write_table(table, row_group_size=max(1, table.num_rows))

        rows = 0
        for part in parts:
            with pq.ParquetFile(part) as source:
                for batch in source.iter_batches(batch_size=64):
                    held.append(batch)
                    rows += batch.num_rows
                    held_rows, held_bytes = sum(b.num_rows for b in held), sum(b.nbytes for b in held)
                    if held_rows >= ROWS_READ_TOGETHER or held_bytes >= BYTES_READ_TOGETHER:
                        write(held)
                        held.clear()
        write(held)
    return rows


def group_ids(path: Path) -> set[str]:
    """Which groups a segment of rollouts holds."""
    return set(pq.read_table(path, columns=["group_id"])["group_id"].to_pylist())


def _rows(groups: Iterable[ScoredGroup]) -> Iterator[dict[str, Any]]:
    """A group that is not what it should be is among the events, word for word, and among the rollouts it is not."""
    for group in groups:
        try:
            yield from list(_rows_of(group))
        except (msgspec.ValidationError, msgspec.DecodeError, ValueError, IndexError) as error:
            log.warning("group.unreadable", subject=group.entry.subject, reason=str(error))


def _rows_of(group: ScoredGroup) -> Iterator[dict[str, Any]]:
    scored = GroupScored.decode(group.entry.body)
    prompt = _json(scored.example.messages)
    for index, (rollout, verdict) in enumerate(zip(scored.rollouts, scored.verdicts, strict=True)):
        fault = rollout.fault or verdict.fault
        yield {
            "step": scored.step,
            "group_id": scored.group_id,
            "index": index,
            "example_id": scored.example.id,
            "prompt": prompt,
            "completion": _json(_completion(rollout)),
            "prompt_ids": _whole(scored.prompt_ids),
            "token_ids": _whole(rollout.token_ids),
            "logprobs": _whole(rollout.logprobs),
            "mask": rollout.mask,
            "reward": verdict.reward,
            "advantage": group.advantages[index] if group.advantages is not None else None,
            "metrics": _json({metric.name: _figure(metric) for metric in verdict.metrics}),
            "fault": _json(fault) if fault else None,
            "policy_version": scored.policy.version,
            "environment_version": scored.environment_version,
            "finish_reason": rollout.finish_reason,
        }


def _whole(packed: bytes) -> bytes:
    if len(packed) % 4:
        raise ValueError(f"{len(packed)} bytes are no numbers of four")
    return packed


def _rollouts(rows: list[dict[str, Any]]) -> pa.Table:
    def column(field: pa.Field) -> pa.Array:
        values = [row[field.name] for row in rows]
        return _lists(values, field.type) if pa.types.is_list(field.type) else pa.array(values, field.type)

    return pa.table([column(field) for field in ROLLOUTS], ROLLOUTS)


def _lists(packed: Sequence[bytes], kind: pa.ListType) -> pa.Array:
    """Packed little-endian numbers as lists, without looking at each."""
    width = kind.value_type.bit_width // 8
    ends = [0]
    for values in packed:
        ends.append(ends[-1] + len(values) // width)
    numbers = pa.Array.from_buffers(kind.value_type, ends[-1], [None, pa.py_buffer(b"".join(packed))])
    return pa.ListArray.from_arrays(pa.array(ends, pa.int32()), numbers)


def _completion(rollout: Rollout) -> list[Message]:
    if rollout.messages:
        return rollout.messages
    return [] if rollout.finish_reason == "fault" else [{"role": "assistant", "content": rollout.text}]


def _figure(metric: Metric) -> Any:
    found = (metric.score, metric.value, metric.success)
    return next((value for value in found if value is not None), None)


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _file(table: pa.Table) -> bytes:
    held = BytesIO()
    pq.write_table(table, held, compression="zstd", row_group_size=ROWS_READ_TOGETHER)
    return held.getvalue()
