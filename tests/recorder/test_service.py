"""The recorder finds again what was said."""

import asyncio
from typing import Any

import pytest

from flash.bus.memory import MemoryBus
from flash.contracts.groups import GroupScored
from flash.contracts.packing import pack_ids
from flash.contracts.requests import EventsFind, EventsPage
from flash.contracts.runs import RunCancelled, RunCancelRequested
from flash.contracts.values import Example, PolicyRef, Rollout, Verdict
from flash.errors import Refused
from services.recorder.service import Recorder
from services.recorder.settings import Settings


async def recording(**settings: int) -> MemoryBus:
    bus = MemoryBus()
    recorder = Recorder(bus, bus.store, Settings(**settings), now=lambda: 0.0)  # type: ignore[arg-type]
    await bus.answer("recorder", recorder.answers())
    return bus


def scored() -> GroupScored:
    return GroupScored(
        org="local", run_id="r1", scope="train", step=1, group=0, example=Example(index=0, id="e0", input="x"),
        policy=PolicyRef(), prompt_ids=pack_ids([1]), verdicts=[Verdict(reward=1.0)],
        rollouts=[Rollout(token_ids=pack_ids([5]), text="hi")],
    )  # fmt: skip


async def test_what_was_said_about_a_run_is_found_in_order_and_other_runs_are_not() -> None:
    bus = await recording()
    await bus.publish(RunCancelRequested(org="local", run_id="r1"))
    await bus.publish(RunCancelled(org="local", run_id="r1"), caused_by="flash.run.cancel-requested.v1.local.r1.1")
    await bus.publish(RunCancelled(org="local", run_id="r2"))

    page = await bus.ask(EventsFind(org="local", run_id="r1"))

    assert [event.event for event in page.events] == ["run.cancel-requested.v1", "run.cancelled.v1"]
    assert page.events[1].caused_by == page.events[0].subject
    assert not page.more


async def test_groups_are_told_when_asked_for_and_without_packed_arrays() -> None:
    bus = await recording()
    await bus.publish(scored())

    assert (await bus.ask(EventsFind(org="local", run_id="r1"))).events == []
    [event] = (await bus.ask(EventsFind(org="local", run_id="r1", nouns=["group"]))).events
    assert "prompt_ids" not in event.body
    [rollout] = event.body["rollouts"]
    assert rollout["text"] == "hi"
    assert not {"token_ids", "logprobs", "mask"} & rollout.keys()
    assert event.body["verdicts"][0]["reward"] == 1.0


@pytest.mark.parametrize("limit", ["page_events", "page_bytes"])
async def test_pages_follow_one_another_without_gap_or_repetition(limit: str) -> None:
    bus = await recording(**{limit: 1})
    await bus.publish(RunCancelRequested(org="local", run_id="r1"), RunCancelled(org="local", run_id="r1"))

    first = await bus.ask(EventsFind(org="local", run_id="r1"))
    second = await bus.ask(EventsFind(org="local", run_id="r1", after=first.upto))

    assert first.more
    assert not second.more
    assert [p.events[0].event for p in (first, second)] == ["run.cancel-requested.v1", "run.cancelled.v1"]


async def test_an_asker_that_waits_is_answered_when_there_is_news() -> None:
    bus = await recording()
    asking = asyncio.create_task(bus.ask(EventsFind(org="local", run_id="r1", wait_s=5.0)))
    await asyncio.sleep(0.05)

    await bus.publish(RunCancelled(org="local", run_id="r1"))

    assert [event.event for event in (await asking).events] == ["run.cancelled.v1"]


async def test_an_asker_that_waits_in_vain_gets_an_empty_page() -> None:
    bus = await recording()

    assert (await bus.ask(EventsFind(org="local", run_id="r1", wait_s=0.05))).events == []


async def test_an_unknown_noun_is_refused_with_the_known_ones() -> None:
    bus = await recording()

    with pytest.raises(Refused, match="dataset, group, record, run, step, training"):
        await bus.ask(EventsFind(org="local", run_id="r1", nouns=["weather"]))


async def test_groups_that_are_written_down_are_told_from_the_record_in_order_and_page_by_page(
    recording: Any, facts: Any
) -> None:
    said = facts().whole(steps=3, groups=2)
    recorder = recording.recorder(segment_bytes=1, page_events=2)
    await recording.bus.answer("recorder", recorder.answers())
    watching = asyncio.create_task(recorder.watch())
    await recording.bus.publish(*said[:12])
    while recorder.writer.book.written < 12:  # noqa: ASYNC110
        await asyncio.sleep(0.02)
    watching.cancel()
    await asyncio.wait({watching})
    await recording.bus.publish(*said[12:])
    from_stream: list[int] = []
    history = recording.bus.history

    def watched(*patterns: str, after: int) -> Any:
        from_stream.append(after)
        return history(*patterns, after=after)

    recording.bus.history = watched

    pages = [EventsPage(events=[], upto=0, more=True)]
    while pages[-1].more:
        request = EventsFind(org="local", run_id="r1", nouns=["group", "run"], after=pages[-1].upto)
        pages.append(await recording.bus.ask(request))

    found = [event for page in pages for event in page.events]
    wanted = [event for event in said if event.name.split(".")[0] in ("group", "run")]
    assert [event.subject for event in found] == [event.subject for event in wanted]
    assert [event.sequence for event in found] == [said.index(event) + 1 for event in wanted]
    assert min(from_stream) == 12, "what is in the record is not read from the stream"
    assert (await recording.bus.ask(EventsFind(org="other", run_id="r1", nouns=["group"]))).events == []
