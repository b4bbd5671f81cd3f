"""What was said, until it is written down."""

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import pytest

from flash.bus import Entry
from flash.contracts.base import Event
from flash.contracts.groups import GroupCancelled
from flash.contracts.record import RecordClosed
from flash.contracts.runs import RunCompleted, RunDeleted, RunFailed, RunResumed
from services.recorder.book import Book


def entries(events: Sequence[Event], first: int = 1) -> list[Entry]:
    return [
        Entry(number, float(number), event.subject, event.subject, "", event.encode())
        for number, event in enumerate(events, start=first)
    ]


def read(events: Sequence[Event], *, written: int = 0, begin: int = 0, upto: int | None = None) -> Book:
    book = Book(written=written)
    for entry in entries(events)[begin:upto]:
        book.add(entry)
    return book


def written(book: Book, upto: int) -> tuple[list[int], list[tuple[str, Any]]]:
    """The sequences of facts, and groups with the first of their advantages."""
    events, groups = [], []
    for segment in book.segments(upto):
        events += [entry.sequence for entry in segment.events]
        groups += [(group.id, group.advantages[0] if group.advantages else None) for group in segment.rollouts]
    return events, groups


def test_a_groups_rollouts_are_written_when_its_step_is_finished_and_has_given_them_advantages(facts: Any) -> None:
    f = facts()
    said = [f.scored(1, 0), f.scored(1, 1), f.finished(1, groups=2)]

    assert written(read(said[:2]), 2) == ([1, 2], [])
    assert written(read(said), 3) == ([1, 2, 3], [("train-1-0", 1.5), ("train-1-1", 1.5)])
    assert [group.id for group in read(said[:2]).unwritten("r1")] == ["train-1-0", "train-1-1"]


def test_a_groups_rollouts_are_written_at_once_in_an_evaluation_and_after_the_end(facts: Any) -> None:
    f = facts()
    failed = RunFailed(org="local", run_id="r1", reason="why not")

    assert written(read([f.scored(1, 0, scope="eval")]), 1)[1] == [("eval-1-0", None)]
    assert written(read([f.scored(1, 0), failed, f.scored(1, 1)]), 3)[1] == [("train-1-0", None), ("train-1-1", None)]


def test_a_group_that_its_step_did_not_train_on_has_no_advantages(facts: Any) -> None:
    f = facts()

    assert written(read([f.scored(1, 0), f.scored(1, 1), f.finished(1, groups=1)]), 3)[1] == [
        ("train-1-0", 1.5), ("train-1-1", None),
    ]  # fmt: skip


@pytest.mark.parametrize("cut", range(1, 19))
def test_reading_again_behind_a_cut_gives_the_rest_and_nothing_twice(facts: Callable[..., Any], cut: int) -> None:
    said = facts().whole(steps=3, groups=2)
    whole = written(read(said), len(said))
    first = read(said, upto=cut)

    before = written(first, cut)
    again = read(said, written=cut, begin=first.begin(cut))
    after = written(again, len(said))

    assert [b + a for b, a in zip(before, after, strict=True)] == list(whole)
    assert whole[0] == list(range(1, len(said) + 1))
    assert [id for id, _ in whole[1]] == [f"train-{step}-{group}" for step in (1, 2, 3) for group in (0, 1)]


def test_of_a_run_that_was_deleted_nothing_is_written_any_more_and_nothing_kept(facts: Any) -> None:
    f = facts()
    said = [*f.whole(steps=1, groups=1), RunDeleted(org="local", run_id="r1"), f.scored(2, 0)]

    book = read([*said, facts("r2").scored(1, 0)])

    assert written(book, len(said) + 1) == ([len(said) + 1], [])
    assert book.num_bytes == len(facts("r2").scored(1, 0).encode())
    assert book.lacks(entries([f.scored(3, 0)])[0]) is None
    book.close("r1")


def test_a_record_is_closed_once_the_end_is_written_and_no_group_is_awaited(facts: Any) -> None:
    f = facts()
    failed = RunFailed(org="local", run_id="r1", reason="why not")
    book = read([f.requested(1, 0), failed])

    assert book.closing(now=1e9, settle_s=60.0) == [], "its end is not written"
    book.forget(2)
    assert book.closing(now=61.0, settle_s=60.0) == [], "the group may still come"
    assert book.closing(now=62.0, settle_s=60.0) == [RecordClosed(org="local", run_id="r1", upto=2)]
    book.add(entries([f.scored(1, 0)], first=3)[0])
    assert book.closing(now=3.0, settle_s=60.0) == [RecordClosed(org="local", run_id="r1", upto=2)]


def test_a_dropped_group_is_awaited_no_more_unless_a_later_attempt_asked_for_it(facts: Any) -> None:
    f = facts()
    failed = RunFailed(org="local", run_id="r1", reason="why not")
    dropped = GroupCancelled(org="local", run_id="r1", attempt=1, scope="train", step=1, group=0)
    again = msgspec.structs.replace(f.requested(1, 0), attempt=2)

    for said, awaited in (([f.requested(1, 0), dropped], 0), ([f.requested(1, 0), again, dropped], 1)):
        book = read([*said, failed])
        book.forget(9)
        assert len(book.closing(now=5.0, settle_s=60.0)) == 1 - awaited


def test_a_resumed_run_is_closed_again_at_the_end_of_its_next_attempt(facts: Any) -> None:
    f = facts()
    failed, resumed = (
        RunFailed(org="local", run_id="r1", reason="why not"),
        RunResumed(org="local", run_id="r1", attempt=2, resumed_at=9.0),
    )
    done = RunCompleted(org="local", run_id="r1", attempt=2)
    said = [f.scored(1, 0), failed, resumed, f.scored(2, 0), f.finished(2, groups=1), done]
    book = read(said[:2])
    book.forget(2)
    [first] = book.closing(now=1e9, settle_s=0.0)
    book.close("r1")

    for entry in entries(said[2:5], first=3):
        book.add(entry)
    assert book.closing(now=1e9, settle_s=0.0) == [], "it goes on"
    assert [id for id, _ in written(book, 5)[1]] == ["train-2-0"], "written when its step gave it its advantages"
    book.add(entries([done], first=6)[0])
    book.forget(6)
    [second] = book.closing(now=1e9, settle_s=0.0)

    assert (first.attempt, second.attempt) == (1, 2)


def test_a_run_whose_record_is_not_closed_is_read_again_from_its_end(facts: Any) -> None:
    said = facts().whole(steps=1, groups=1)
    book = read(said)
    book.forget(len(said))

    assert book.begin(len(said)) == len(said) - 1
    book.close("r1")
    assert book.begin(len(said)) == len(said)
    assert book.unwritten("r1") == []


def test_facts_of_environments_and_facts_that_nobody_here_knows_are_passed_over() -> None:
    book = Book(written=0)

    for number, subject in enumerate(["flash.environment.published.v1.local.e.v", "flash.run.imagined.v9.local.r1"]):
        book.add(Entry(number + 1, 0.0, subject, "", "", b"{}"))

    assert book.read == 2
    assert list(book.segments(2)) == []


def test_a_group_told_again_after_its_step_was_finished_is_no_second_rollout(facts: Any) -> None:
    f = facts()
    said = [f.scored(1, 0), f.finished(1, groups=1), f.scored(1, 0)]

    assert written(read(said), 3) == ([1, 2, 3], [("train-1-0", 1.5)])

    book = Book(written=0)
    book.open("local", "r1", finished=1, ended=None)
    book.add(entries([f.scored(1, 0)])[0])
    assert written(book, 1) == ([1], [])
    assert book.unwritten("r1") == []
