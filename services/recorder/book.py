"""What was said and is not written down yet. Pure: facts in; what a segment holds, and where to go on, out.

A rollout is written once nothing about it can change any more: in training when its step is finished, which gives it
its advantage, or its run is over; in an evaluation when it is scored. So what the segment from one position to another
holds follows from the stream alone, and whoever writes it again writes the same.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import msgspec

from flash.bus import Entry
from flash.contracts.catalogue import kind_of
from flash.contracts.groups import GroupCancelled, GroupRequested, GroupScored
from flash.contracts.record import RecordClosed
from flash.contracts.runs import LAST_WORDS, RunDeleted, RunResumed, RunSubmitted
from flash.contracts.steps import StepFinished, StepSaved
from flash.contracts.values import PolicyRef
from services.recorder.parquet import ScoredGroup

GroupKey = tuple[str, int, int]
"""Scope, step and index."""


@dataclass(frozen=True)
class Segment:
    """What one segment of a run's record holds."""

    org: str
    run_id: str
    events: list[Entry]
    rollouts: list[ScoredGroup]


@dataclass(frozen=True)
class LastWord:
    """Where and when a run ended."""

    sequence: int
    time: float
    attempt: int = 1


@dataclass(frozen=True)
class Awaited:
    """A group that was asked for."""

    sequence: int
    """Where, for the first time."""
    attempt: int
    """Which asked for it last."""


@dataclass
class Pages:
    """One run, as far as it is not written down."""

    org: str
    events: list[Entry] = field(default_factory=list)
    waiting: dict[GroupKey, Entry] = field(default_factory=dict)
    """Scored groups whose step is not finished."""
    complete: list[tuple[int, ScoredGroup]] = field(default_factory=list)
    """Groups to be written, each with the position at which it became so."""
    unsettled: dict[GroupKey, Awaited] = field(default_factory=dict)
    """Groups that were asked for, and are neither scored nor dropped."""
    finished: int = 0
    """The newest finished step: what is scored for it or earlier ones again is a double."""
    saved: bool = False
    """A checkpoint was told since the last segment."""
    ended: LastWord | None = None
    is_closed: bool = False


class Book:
    """Every fact after a position, folded run by run."""

    def __init__(self, *, written: int) -> None:
        """`written`: the position up to which facts are in segments; earlier ones are read for what they lead to."""
        self.written = written
        self.read = 0
        """The position of the last fact that was read."""
        self.num_bytes = 0
        """Of facts that are read and not written."""
        self._runs: dict[str, Pages] = {}
        self._deleted: set[str] = set()

    def lacks(self, entry: Entry) -> tuple[str, str] | None:
        """Organisation and run of a fact which is not the run's first, but the first that is read here."""
        said = address(entry.subject)
        if said is None or said["run_id"] in self._runs or said["run_id"] in self._deleted:
            return None
        if kind_of(entry.subject) in (RunSubmitted, RunDeleted, RecordClosed):
            return None
        return said["org"], said["run_id"]

    def open(self, org: str, run_id: str, *, finished: int, ended: LastWord | None) -> None:
        """A run that has a past: its newest finished step, and whether it was over already."""
        self._runs[run_id] = Pages(org=org, finished=finished, ended=ended)

    def add(self, entry: Entry) -> None:
        """One more fact, in the order of the stream."""
        self.read = entry.sequence
        if (said := address(entry.subject)) is None:
            return
        kind = kind_of(entry.subject)
        if kind is RecordClosed:
            return  # what is said about the record is no part of it
        if kind is RunDeleted:
            self._delete(said["run_id"])
        if said["run_id"] in self._deleted:
            return
        pages = self._runs.setdefault(said["run_id"], Pages(org=said["org"]))
        if entry.sequence > self.written:
            pages.events.append(entry)
            self.num_bytes += len(entry.body)
        if kind is GroupRequested:
            first = pages.unsettled.get(_group(said))
            pages.unsettled[_group(said)] = Awaited(first.sequence if first else entry.sequence, int(said["attempt"]))
        elif kind is GroupCancelled:
            awaited = pages.unsettled.get(_group(said))
            if awaited is not None and awaited.attempt <= int(said["attempt"]):
                del pages.unsettled[_group(said)]
        elif kind is GroupScored:
            pages.unsettled.pop(_group(said), None)
            if said["scope"] == "train" and int(said["step"]) <= pages.finished:
                return  # a late teller's, after the first was taken out of the stream
            pages.waiting[_group(said)] = entry
            if said["scope"] == "eval" or pages.ended:
                self._complete(pages, entry.sequence, {_group(said): None})
        elif kind is StepFinished:
            finished = _step(entry, said)
            pages.finished = max(pages.finished, finished.step)
            trained = {("train", finished.step, group.group): group.advantages for group in finished.groups}
            done = sorted(key for key in pages.waiting if key[0] == "train" and key[1] <= finished.step)
            self._complete(pages, entry.sequence, {key: trained.get(key) for key in done})
        elif kind is StepSaved:
            pages.saved = True
        elif kind in LAST_WORDS:
            pages.ended = LastWord(entry.sequence, entry.time, int(said["attempt"]))
            self._complete(pages, entry.sequence, dict.fromkeys(sorted(pages.waiting)))

        elif kind is RunResumed:
            pages.ended, pages.is_closed = None, False

    def segments(self, upto: int) -> Iterator[Segment]:
        """What is to be written of each run up to a position."""
        for run_id, pages in self._runs.items():
            events = [entry for entry in pages.events if entry.sequence <= upto]
            rollouts = [group for at, group in pages.complete if at <= upto]
            if events or rollouts:
                yield Segment(pages.org, run_id, events, rollouts)

    def forget(self, upto: int) -> None:
        """What lies up to a position is written."""
        self.written = max(self.written, upto)
        for run_id, pages in list(self._runs.items()):
            self.num_bytes -= sum(len(entry.body) for entry in pages.events if entry.sequence <= upto)
            pages.events = [entry for entry in pages.events if entry.sequence > upto]
            pages.complete = [(at, group) for at, group in pages.complete if at > upto]
            if pages.is_closed and not pages.events and not pages.complete:
                del self._runs[run_id]

    def begin(self, upto: int) -> int:
        """Behind which position reading must begin again, to know what this book knows of the time after `upto`."""
        needed = [upto + 1]
        for pages in self._runs.values():
            if pages.is_closed:
                continue
            needed += [entry.sequence for entry in pages.waiting.values()]
            needed += [group.entry.sequence for at, group in pages.complete if at > upto]
            needed += [] if pages.ended else [awaited.sequence for awaited in pages.unsettled.values()]
            needed += [pages.ended.sequence] if pages.ended else []
        return min(needed) - 1

    def closing(self, now: float, settle_s: float) -> list[RecordClosed]:
        """The runs that are written to their end, and of which nothing more is awaited."""
        return [
            RecordClosed(org=pages.org, run_id=run_id, attempt=pages.ended.attempt, upto=self.written)
            for run_id, pages in self._runs.items()
            if pages.ended and not pages.is_closed and pages.ended.sequence <= self.written
            if not pages.unsettled or pages.ended.time + settle_s <= now
        ]

    def close(self, run_id: str) -> None:
        """It was said that the record of a run is closed."""
        if pages := self._runs.get(run_id):
            pages.is_closed = True
        self.forget(self.written)

    def saved(self) -> list[tuple[str, str]]:
        """Organisation and run of those whose checkpoints were told since this was last asked."""
        found = [(pages.org, run_id) for run_id, pages in self._runs.items() if pages.saved]
        for _, run_id in found:
            self._runs[run_id].saved = False
        return found

    @property
    def has_ended(self) -> bool:
        """Some run has said its last word since the last segment."""
        return any(pages.ended and pages.ended.sequence > self.written for pages in self._runs.values())

    def unwritten(self, run_id: str) -> list[ScoredGroup]:
        """The scored groups of a run that no segment holds."""
        if (pages := self._runs.get(run_id)) is None:
            return []
        return [group for _, group in pages.complete] + [ScoredGroup(entry) for entry in pages.waiting.values()]

    def _delete(self, run_id: str) -> None:
        """Nothing of it is written any more."""
        self._deleted.add(run_id)
        if pages := self._runs.pop(run_id, None):
            self.num_bytes -= sum(len(entry.body) for entry in pages.events)

    def _complete(self, pages: Pages, at: int, groups: Mapping[GroupKey, list[float] | None]) -> None:
        for key, advantages in groups.items():
            entry = pages.waiting.pop(key, None)
            if entry is not None and at > self.written:
                pages.complete.append((at, ScoredGroup(entry, advantages)))


def address(subject: str) -> dict[str, str] | None:
    """The fields in the subject of a run's fact; None for facts about something else, or that nobody here knows."""
    try:
        kind = kind_of(subject)
    except LookupError:
        return None
    fields = subject.split(".")[4:]
    if "run_id" not in kind.address or len(fields) != len(kind.address):
        return None
    return dict(zip(kind.address, fields, strict=True))


def _step(entry: Entry, said: Mapping[str, str]) -> StepFinished:
    """What cannot be read finished its step all the same."""
    try:
        return StepFinished.decode(entry.body)
    except (msgspec.ValidationError, msgspec.DecodeError):
        return StepFinished(
            org=said["org"], run_id=said["run_id"], attempt=0, step=int(said["step"]), policy=PolicyRef()
        )


def _group(said: Mapping[str, str]) -> GroupKey:
    return said["scope"], int(said["step"]), int(said["group"])
