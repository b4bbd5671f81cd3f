"""What runs have used: counted as their segments are written, each exactly once, and kept when a run is deleted."""

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

import msgspec

from flash.bus import Entry
from flash.contracts.catalogue import kind_of
from flash.contracts.groups import GroupScored
from flash.contracts.runs import RunSubmitted
from flash.contracts.steps import StepFinished
from flash.contracts.usage import By, UsageRow, UsageSum, UsageSummed, Used
from flash.records import Records
from services.recorder.book import Segment
from services.recorder.parquet import ScoredGroup

MOST_ROWS = 500

Days = Mapping[str, Used]


class RunUsage(msgspec.Struct, frozen=True):
    """The record of one run, under `<org>.<run>`."""

    upto: int = 0
    """Up to which position of the stream its segments are counted."""
    days: dict[str, Used] = {}


class Usage:
    """Adds segments up, and answers `usage.sum`."""

    def __init__(self, records: Records) -> None:
        self._records = records

    async def add(self, segment: Segment, upto: int) -> None:
        """Count a segment that reaches up to a position; one that was counted before is not counted again."""
        if used := await asyncio.to_thread(of_segment, segment):
            await self._records.update(f"{segment.org}.{segment.run_id}", lambda found: _added(found, used, upto))

    async def on_usage_sum(self, asked: UsageSum) -> UsageSummed:
        documents = await self._records.all(asked.org or "")
        known = {id: msgspec.json.decode(document, type=RunUsage) for id, document in documents.items()}
        return summed(known, asked)


def of_segment(segment: Segment) -> dict[str, Used]:
    """What lies in a segment, by day; empty where nothing counts. What cannot be read is not counted."""
    days: defaultdict[str, Used] = defaultdict(Used)
    for entry, used in (*map(_of_event, segment.events), *map(_of_group, segment.rollouts)):
        if used:
            day = datetime.fromtimestamp(entry.time, UTC).date().isoformat()
            days[day] = days[day].plus(used)
    return dict(days)


def summed(known: Mapping[str, RunUsage], asked: UsageSum) -> UsageSummed:
    """The answer from what is kept of each run, by `<org>.<run>`."""
    rows: defaultdict[str, Used] = defaultdict(Used)
    newest: defaultdict[str, int] = defaultdict(int)
    for id, run in known.items():
        for day, used in run.days.items():
            if day >= asked.since:
                name = _name(id, day, asked.by)
                rows[name] = rows[name].plus(used)
                newest[name] = max(newest[name], run.upto)
    names = sorted(rows, reverse=asked.by == "day")
    if asked.by == "run":
        names.sort(key=lambda name: -newest[name])
    page = names[max(0, asked.offset) :][: max(0, min(asked.limit, MOST_ROWS))]
    return UsageSummed(
        rows=[UsageRow(name=name, used=rows[name]) for name in page], count=len(names), total=_total(rows.values())
    )


def _of_event(entry: Entry) -> tuple[Entry, Used | None]:
    kind = kind_of(entry.subject)
    if kind is RunSubmitted:
        return entry, Used(runs=1)
    if kind is not StepFinished:
        return entry, None
    try:
        step = StepFinished.decode(entry.body)
    except (msgspec.ValidationError, msgspec.DecodeError):
        return entry, None
    return entry, Used(steps=1, trained_tokens=round(step.metrics.get("tokens", 0.0))) if step.step else None


def _of_group(group: ScoredGroup) -> tuple[Entry, Used | None]:
    try:
        scored = GroupScored.decode(group.entry.body)
    except (msgspec.ValidationError, msgspec.DecodeError):
        return group.entry, None
    tokens = sum(rollout.mask.count(1) for rollout in scored.rollouts)
    return group.entry, Used(rollouts=len(scored.rollouts), sampled_tokens=tokens)


def _added(found: bytes | None, used: Days, upto: int) -> bytes | None:
    run = msgspec.json.decode(found, type=RunUsage) if found else RunUsage()
    if run.upto >= upto:
        return found
    days = {day: run.days.get(day, Used()).plus(used.get(day, Used())) for day in (*run.days, *used)}
    return msgspec.json.encode(RunUsage(upto=upto, days=days))


def _name(id: str, day: str, by: By) -> str:
    org, _, run_id = id.partition(".")
    return {"day": day, "run": run_id, "org": org}[by]


def _total(all_used: Iterable[Used]) -> Used:
    total = Used()
    for used in all_used:
        total = total.plus(used)
    return total
