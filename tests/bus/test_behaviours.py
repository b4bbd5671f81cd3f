"""What both buses do, written down once."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from flash.bus import Bus, EveryReplica, Fenced, NobodyAnswers, Rejected, Shared, worker
from flash.bus.wire import Letter
from flash.contracts.base import Event, Request
from flash.contracts.groups import GroupGenerated, GroupRequested
from flash.contracts.keys import blob_key
from flash.contracts.requests import Generate, GeneratedText, RunCancel, RunState
from flash.contracts.runs import RunCancelRequested, RunFailed, RunStarted
from flash.contracts.steps import StepClaimed, StepFinished
from flash.contracts.values import Example, PolicyRef
from flash.errors import BusError, NotFound, Refused


def requested(group: int = 0, *, run_id: str = "r1", pool: str = "tiny", text: str = "2 + 2") -> GroupRequested:
    return GroupRequested(
        pool=pool, org="local", run_id=run_id, attempt=1, scope="train", step=1, group=group,
        example=Example(index=group, id=str(group), input=text), policy=PolicyRef(),
    )  # fmt: skip


def generated(event: GroupRequested, *, replica: str = "", padding: int = 0) -> GroupGenerated:
    return GroupGenerated(
        org=event.org, run_id=event.run_id, scope=event.scope, step=event.step, group=event.group,
        example=event.example, policy=event.policy, prompt_ids=bytes(padding), rollouts=[], replica=replica,
    )  # fmt: skip


def started(run_id: str = "r1") -> RunStarted:
    return RunStarted(pool="tiny", org="local", run_id=run_id, attempt=1, steps=3, prompts_per_step=1, rows=8)


def claimed(attempt: int, learner: str = "one") -> StepClaimed:
    return StepClaimed(org="local", run_id="r1", attempt=attempt, learner=learner)


def finished(step: int, attempt: int) -> StepFinished:
    return StepFinished(org="local", run_id="r1", attempt=attempt, step=step, policy=PolicyRef(version=step))


async def until(holds: Callable[[], Any], within_s: float = 8.0) -> None:
    end = asyncio.get_running_loop().time() + within_s
    while not holds():
        assert asyncio.get_running_loop().time() < end, "it did not come true in time"
        await asyncio.sleep(0.005)


async def told(bus: Bus, *patterns: str, after: int = 0) -> list[Event]:
    return [fact.event async for fact in bus.history(*(patterns or ("flash.>",)), after=after)]


async def buried(side: Any) -> list[Letter]:
    """The dead letters, once there are some."""
    while True:
        if dead := await side.dead_letters():
            return list(dead)
        await asyncio.sleep(0.01)


def answering(replica: str, heard: list[int], works_s: float = 0.0) -> Callable[[GroupRequested], Any]:
    async def on_group_requested(event: GroupRequested) -> list[Event]:
        heard.append(event.group)
        await asyncio.sleep(works_s)
        return [generated(event, replica=replica)]

    return on_group_requested


# telling and reading


async def test_a_told_fact_is_read_as_it_was_told_with_its_place_time_and_cause(bus: Bus) -> None:
    await bus.publish(requested(0), caused_by="flash.run.planned.v1.local.r1")
    await bus.publish(requested(1))

    facts = [fact async for fact in bus.history("flash.>")]

    assert [fact.event for fact in facts] == [requested(0), requested(1)]
    assert [fact.caused_by for fact in facts] == ["flash.run.planned.v1.local.r1", ""]
    assert facts[0].sequence < facts[1].sequence
    assert facts[0].time > 1_600_000_000
    assert [fact.pending for fact in facts] == [1, 0]


async def test_of_two_facts_on_one_subject_the_first_told_stands(bus: Bus) -> None:
    await bus.publish(generated(requested(), replica="first"))
    await bus.publish(generated(requested(), replica="second"))

    assert [fact.replica for fact in await told(bus)] == ["first"]


async def test_history_starts_after_a_place_keeps_to_its_patterns_and_ends_at_the_present(bus: Bus) -> None:
    await bus.publish(requested(0), requested(1), started(), requested(2), requested(3, run_id="r2"))
    first = await anext(aiter(bus.history("flash.>")))

    pattern = GroupRequested.pattern(run_id="r1")

    assert [fact.group for fact in await told(bus, pattern, after=first.sequence)] == [1, 2]
    assert await told(bus, RunFailed.pattern()) == []


async def test_the_newest_fact_on_a_pattern_is_found(bus: Bus) -> None:
    await bus.publish(requested(0), requested(1), started())

    newest = await bus.last(GroupRequested.pattern(run_id="r1"))

    assert newest is not None
    assert newest.event == requested(1)
    assert await bus.last(requested(0).subject) is not None
    assert await bus.last("flash.step.*.v1.local.r1.>") is None


async def test_entries_are_the_words_themselves_large_ones_and_those_that_nobody_knows_too(side: Any) -> None:
    bus = await side.bus()
    large = generated(requested(), padding=600_000)
    await bus.publish(large, caused_by="because")
    await side.tell_raw("flash.run.imagined.v9.local.r1", b"whatever")

    entries = []
    async for entry in bus.entries("flash.>"):
        entries.append(entry)
        if len(entries) == 2:
            break

    assert [entry.body for entry in entries] == [large.encode(), b"whatever"]
    assert [entry.subject for entry in entries] == [large.subject, "flash.run.imagined.v9.local.r1"]
    assert (entries[0].caused_by, entries[0].message_id) == ("because", large.subject)


async def test_what_is_forgotten_is_read_and_heard_no_more_and_the_rest_is(side: Any) -> None:
    bus = await side.bus()
    await bus.publish(*(requested(group) for group in range(4)), requested(9, run_id="r2"), started())
    places = [fact.sequence async for fact in bus.history("flash.>")]
    heard: list[int] = []

    await bus.forget(GroupRequested.pattern(run_id="r1"), before=places[3])
    await bus.listen(Shared(name="rollout", event=GroupRequested, handler=answering("one", heard)))
    await until(lambda: len(heard) == 2)

    assert heard == [3, 9]
    assert await told(bus, "flash.group.requested.>", "flash.run.>") == [
        requested(3), requested(9, run_id="r2"), started(),
    ]  # fmt: skip
    assert await bus.last(requested(0).subject) is None
    assert await bus.last(started().subject) is not None


async def test_what_is_forgotten_while_it_waits_reaches_nobody(side: Any) -> None:
    bus = await side.bus()
    heard: list[int] = []
    await bus.listen(Shared(name="rollout", event=GroupRequested, handler=answering("one", heard, works_s=0.3)))
    await bus.publish(*(requested(group) for group in range(3)))
    await until(lambda: heard == [0])

    await bus.forget(GroupRequested.pattern(run_id="r1"), before=1_000)
    await bus.publish(requested(7))
    await until(lambda: len(heard) == 2)

    assert heard == [0, 7]


async def test_a_replay_gives_what_was_and_then_what_comes_in_order(bus: Bus) -> None:
    await bus.publish(*(requested(group) for group in range(20)))
    heard: list[int] = []

    async def read() -> None:
        async for fact in bus.replay(GroupRequested.pattern(run_id="r1"), RunStarted.pattern()):
            heard.append(getattr(fact.event, "group", -1))

    reader = asyncio.create_task(read())
    await until(lambda: len(heard) == 20)
    await bus.publish(started(), *(requested(group) for group in range(20, 40)))
    await until(lambda: len(heard) == 41)
    reader.cancel()

    assert heard == [*range(20), -1, *range(20, 40)]


async def test_a_large_body_goes_through_the_store_and_nobody_notices(bus: Bus, side: Any) -> None:
    large = generated(requested(), padding=600_000)
    heard: list[GroupGenerated] = []

    async def on_group_generated(event: GroupGenerated) -> list[Event]:
        heard.append(event)
        return []

    await bus.listen(Shared("scorer", GroupGenerated, on_group_generated))
    await bus.publish(large)
    await until(lambda: heard)

    assert heard == [large] == await told(bus)
    assert [stat.key async for stat in side.store.list(blob_key("r1", ""))] != []


# shared


async def test_what_a_handler_returns_is_told_with_its_cause(bus: Bus) -> None:
    await bus.listen(Shared("rollout", GroupRequested, answering("one", [])))
    await bus.publish(requested(0))
    pattern = GroupGenerated.pattern()
    fact = await anext(aiter(bus.replay(pattern)))

    assert fact.event == generated(requested(0), replica="one")
    assert fact.caused_by == requested(0).subject


async def test_what_was_told_before_anybody_listened_is_heard(bus: Bus) -> None:
    heard: list[int] = []
    await bus.publish(requested(0), requested(1))

    await bus.listen(Shared("rollout", GroupRequested, answering("one", heard)))

    await until(lambda: sorted(heard) == [0, 1])


async def test_a_subscription_hears_only_the_pool_it_asked_for(bus: Bus) -> None:
    heard: list[int] = []
    await bus.listen(Shared("rollout-tiny", GroupRequested, answering("one", heard), where={"pool": "tiny"}))

    await bus.publish(requested(0, pool="large"), requested(1, pool="tiny"))
    await until(lambda: heard)
    await asyncio.sleep(0.05)

    assert heard == [1]


async def test_two_replicas_share_waiting_work_evenly_because_neither_holds_more_than_its_slots(side: Any) -> None:
    one, two = await side.bus("rollout:one"), await side.bus("rollout:two")
    by_one: list[int] = []
    by_two: list[int] = []
    for bus in (one, two):
        await bus.answer("scheduler", {RunCancel: lambda request: STATE})
    await one.publish(*(requested(group) for group in range(40)))

    await one.listen(Shared("rollout", GroupRequested, answering("one", by_one, works_s=0.04), slots=2))
    await two.listen(Shared("rollout", GroupRequested, answering("two", by_two, works_s=0.04), slots=2))
    await until(lambda: len(by_one) + len(by_two) == 40)

    assert 14 <= len(by_one) <= 26
    assert sorted(by_one + by_two) == list(range(40))
    shares = {"one": len(by_one), "two": len(by_two)}
    for _ in range(20):  # what was heard is counted once it is acknowledged
        found = {replica.id: replica.done for replica in await one.replicas(wait_s=0.1)}
        if found == shares:
            break
        await asyncio.sleep(0.05)
    assert found == shares


async def test_a_replica_holds_no_more_than_its_free_slots(bus: Bus) -> None:
    release = asyncio.Event()
    heard: list[int] = []

    async def wait(event: GroupRequested) -> list[Event]:
        heard.append(event.group)
        await release.wait()
        return []

    await bus.listen(Shared("rollout", GroupRequested, wait, slots=3))
    await bus.publish(*(requested(group) for group in range(10)))
    await until(lambda: len(heard) == 3)
    await asyncio.sleep(0.1)
    (pool,) = await bus.pools()

    assert (pool.name, pool.waiting, pool.in_progress) == ("rollout", 7, 3)
    release.set()
    await until(lambda: len(heard) == 10)


async def test_a_handler_that_raises_is_tried_again(bus: Bus) -> None:
    tries: list[int] = []

    async def fails_twice(event: GroupRequested) -> list[Event]:
        tries.append(event.group)
        if len(tries) < 3:
            raise RuntimeError("not yet")
        return [generated(event)]

    await bus.listen(Shared("rollout", GroupRequested, fails_twice))
    await bus.publish(requested())
    await until(lambda: len(tries) == 3)
    await asyncio.sleep(0.1)

    assert len(tries) == 3
    assert await told(bus, GroupGenerated.pattern()) == [generated(requested())]


async def test_what_raises_too_often_is_given_up_and_put_aside_with_the_reason(bus: Bus, side: Any) -> None:
    tries: list[int] = []

    async def fails(event: GroupRequested) -> list[Event]:
        tries.append(event.group)
        raise RuntimeError("no such\ntokenizer")

    def give_up(event: GroupRequested, reason: str) -> list[Event]:
        return [RunFailed(org="local", run_id=event.run_id, reason=reason)]

    await bus.listen(Shared("rollout", GroupRequested, fails, max_raises=3, give_up=give_up))
    await bus.publish(requested())
    failed = (await anext(aiter(bus.replay(RunFailed.pattern())))).event
    await asyncio.sleep(0.1)
    (dead,) = await side.dead_letters()

    assert failed.reason == "raised 3 times, last: RuntimeError: no such\ntokenizer"
    assert len(tries) == 3
    assert dead.subject == f"dead.rollout.{requested().subject}"
    assert dead.headers["reason"] == "raised 3 times, last: RuntimeError: no such tokenizer"
    assert GroupRequested.decode(dead.body) == requested()
    assert (await bus.pools())[0].in_progress == 0


async def test_what_is_rejected_is_put_aside_at_once(bus: Bus, side: Any) -> None:
    tries: list[int] = []

    async def rejects(event: GroupRequested) -> list[Event]:
        tries.append(event.group)
        raise Rejected("this can never work")

    await bus.listen(Shared("rollout", GroupRequested, rejects))
    await bus.publish(requested())
    dead = await buried(side)

    assert tries == [0]
    assert dead[0].headers["reason"] == "this can never work"


async def test_a_body_that_is_not_the_fact_is_put_aside(bus: Bus, side: Any) -> None:
    await side.tell_raw(requested(0).subject, b"not msgpack at all")
    heard: list[int] = []

    await bus.listen(Shared("rollout", GroupRequested, answering("one", heard)))
    await bus.publish(requested(1))
    dead = await buried(side)
    await until(lambda: heard == [1])

    assert dead[0].body == b"not msgpack at all"
    assert [fact.event async for fact in bus.history(GroupRequested.pattern())] == [requested(1)]


async def test_what_kills_every_replica_is_given_up_after_so_many_deliveries(side: Any) -> None:
    heard: list[str] = []

    def hangs(event: GroupRequested) -> Any:
        heard.append(event.group_id)
        return asyncio.sleep(60)

    for number in range(2):
        mortal = await side.bus(f"rollout:{number}")
        await mortal.listen(Shared("rollout", GroupRequested, hangs, max_deliveries=2))
        await mortal.publish(requested())
        await until(lambda so_far=number: len(heard) == so_far + 1)
        await side.kill(mortal)
    last = await side.bus("rollout:last")
    await last.listen(Shared("rollout", GroupRequested, hangs, max_deliveries=2))
    dead = await buried(side)

    assert len(heard) == 2
    assert "delivered 3 times" in dead[0].headers["reason"]


async def test_the_work_of_a_killed_replica_goes_to_another(side: Any) -> None:
    one, two = await side.bus("rollout:one"), await side.bus("rollout:two")
    by_one: list[int] = []
    by_two: list[int] = []
    await one.listen(Shared("rollout", GroupRequested, answering("one", by_one, works_s=60)))
    await one.publish(requested())
    await until(lambda: by_one)

    await side.kill(one)
    await two.listen(Shared("rollout", GroupRequested, answering("two", by_two)))
    await until(lambda: by_two)
    await asyncio.sleep(0.05)

    assert await told(two, GroupGenerated.pattern()) == [generated(requested(), replica="two")]


async def test_work_that_lasts_longer_than_the_acknowledgement_wait_stays_with_its_replica(side: Any) -> None:
    one, two = await side.bus("rollout:one"), await side.bus("rollout:two")
    heard: list[int] = []

    await one.listen(Shared("rollout", GroupRequested, answering("one", heard, works_s=2.5 * side.ack_wait_s)))
    await two.listen(Shared("rollout", GroupRequested, answering("two", heard, works_s=2.5 * side.ack_wait_s)))
    await one.publish(requested())
    await until(lambda: heard)
    await anext(aiter(one.replay(GroupGenerated.pattern())))

    assert heard == [0]


async def test_closing_hands_back_at_once_what_has_not_finished_in_time(side: Any) -> None:
    one, two = await side.bus("rollout:one"), await side.bus("rollout:two")
    by_one: list[int] = []
    by_two: list[int] = []
    await one.listen(Shared("rollout", GroupRequested, answering("one", by_one, works_s=60), slots=2))
    await one.publish(requested(0), requested(1))
    await until(lambda: len(by_one) == 2)
    await two.listen(Shared("rollout", GroupRequested, answering("two", by_two), slots=2))

    began = asyncio.get_running_loop().time()
    await one.close(grace_s=0.05)
    await until(lambda: len(by_two) == 2)

    assert asyncio.get_running_loop().time() - began < 0.05 + side.ack_wait_s / 2


async def test_closing_lets_running_handlers_finish(side: Any) -> None:
    one, two = await side.bus("rollout:one"), await side.bus("rollout:two")
    heard: list[int] = []
    await one.listen(Shared("rollout", GroupRequested, answering("one", heard, works_s=0.1)))
    await one.publish(requested(0), requested(1))
    await until(lambda: heard)

    await one.close(grace_s=2.0)

    assert heard == [0]
    assert await told(two, GroupGenerated.pattern()) == [generated(requested(0), replica="one")]


async def test_closing_hands_back_at_once_what_would_not_be_done_in_time(side: Any) -> None:
    one, two = await side.bus("rollout:one"), await side.bus("rollout:two")
    by_one: list[int] = []
    by_two: list[int] = []
    await one.listen(Shared("rollout", GroupRequested, answering("one", by_one, works_s=1.5)))
    await one.publish(requested(0), requested(1))
    await until(lambda: by_one == [0, 1])  # the first has taken 1.5 s, and the second begins
    await two.listen(Shared("rollout", GroupRequested, answering("two", by_two)))

    began = asyncio.get_running_loop().time()
    await asyncio.gather(one.close(grace_s=0.7), until(lambda: by_two))

    assert by_two == [1]
    assert asyncio.get_running_loop().time() - began < 0.6


async def test_closing_waits_a_moment_only_where_nothing_says_how_long_it_takes(
    side: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "MOMENT_S", 0.1)
    one, two = await side.bus("learner:one"), await side.bus("learner:two")
    taken: list[str] = []

    async def lasts(event: RunStarted) -> AsyncIterator[Event]:
        yield claimed(1, "one")
        await asyncio.sleep(60)

    async def takes_over(event: RunStarted) -> AsyncIterator[Event]:
        yield claimed(2, "two")
        taken.append(event.run_id)

    await one.listen(Shared("learner", RunStarted, lasts, max_deliveries=0))
    await one.publish(started())
    await anext(aiter(one.replay(StepClaimed.pattern())))
    await two.listen(Shared("learner", RunStarted, takes_over, max_deliveries=0))

    began = asyncio.get_running_loop().time()
    await one.close(grace_s=5)
    await until(lambda: taken)

    assert asyncio.get_running_loop().time() - began < 1


# lasting handlers and the fence


async def test_a_lasting_handler_goes_on_when_what_it_yielded_is_told(bus: Bus) -> None:
    seen: list[int] = []

    async def on_run_started(event: RunStarted) -> AsyncIterator[Event]:
        for step in range(1, event.steps + 1):
            yield finished(step, attempt=1)
            newest = await bus.last("flash.step.*.v1.local.r1.>")
            seen.append(newest.event.step)  # type: ignore[union-attr,attr-defined]

    await bus.listen(Shared("learner", RunStarted, on_run_started))
    await bus.publish(started())
    await until(lambda: len(seen) == 3)

    assert seen == [1, 2, 3]


async def test_of_two_that_speak_about_the_same_thing_the_one_who_spoke_first_falls_silent(side: Any) -> None:
    zombie, heir = await side.bus("learner:zombie"), await side.bus("learner:heir")
    wake, ends = asyncio.Event(), []

    async def sleeps(event: RunStarted) -> AsyncIterator[Event]:
        try:
            yield claimed(1, "zombie")
            await wake.wait()
            yield finished(1, attempt=1)
            yield finished(2, attempt=1)
        finally:
            ends.append("zombie")

    async def works(event: RunStarted) -> AsyncIterator[Event]:
        yield claimed(2, "heir")
        yield finished(1, attempt=2)
        wake.set()
        await until(lambda: ends)
        await asyncio.sleep(2 * side.ack_wait_s)
        yield finished(2, attempt=2)
        ends.append("heir")

    await zombie.listen(Shared("learner", RunStarted, sleeps, max_deliveries=0))
    await zombie.publish(started())
    await anext(aiter(zombie.replay(StepClaimed.pattern())))
    await side.freeze(zombie)
    await heir.listen(Shared("learner", RunStarted, works, max_deliveries=0))
    await until(lambda: ends == ["zombie", "heir"])

    assert await told(heir, "flash.step.>") == [
        claimed(1, "zombie"), claimed(2, "heir"), finished(1, attempt=2), finished(2, attempt=2),
    ]  # fmt: skip


async def test_who_was_refused_does_not_take_the_message_from_its_heir(side: Any) -> None:
    zombie, heir, last = (
        await side.bus("learner:zombie"),
        await side.bus("learner:heir"),
        await side.bus("learner:last"),
    )
    heard: list[str] = []
    wake = asyncio.Event()

    async def sleeps(event: RunStarted) -> AsyncIterator[Event]:
        yield claimed(1, "zombie")
        await wake.wait()
        try:
            yield finished(1, attempt=1)
        finally:
            heard.append("zombie fell silent")

    async def hangs(event: RunStarted) -> AsyncIterator[Event]:
        yield claimed(2, "heir")
        heard.append("heir")
        await asyncio.sleep(60)

    async def works(event: RunStarted) -> AsyncIterator[Event]:
        yield claimed(3, "last")
        heard.append("last")

    await zombie.listen(Shared("learner", RunStarted, sleeps, max_deliveries=0))
    await zombie.publish(started())
    await anext(aiter(zombie.replay(StepClaimed.pattern())))
    await side.freeze(zombie)
    await heir.listen(Shared("learner", RunStarted, hangs, max_deliveries=0))
    await until(lambda: heard == ["heir"])
    wake.set()
    await until(lambda: len(heard) == 2)
    await zombie.close(grace_s=0)
    await last.listen(Shared("learner", RunStarted, works, max_deliveries=0))
    await asyncio.sleep(1.5 * side.ack_wait_s)
    assert heard == ["heir", "zombie fell silent"]

    await side.kill(heir)
    await until(lambda: len(heard) == 3)

    assert heard == ["heir", "zombie fell silent", "last"]


async def test_one_of_two_equal_claims_is_refused(side: Any) -> None:
    one, two = await side.bus("learner:one"), await side.bus("learner:two")

    results = await asyncio.gather(
        one.publish(claimed(1, "one")), two.publish(claimed(1, "two")), return_exceptions=True
    )

    assert sorted(type(result).__name__ for result in results) == ["Fenced", "NoneType"]
    assert len(await told(one)) == 1


async def test_a_claim_is_refused_when_its_attempt_was_taken_however_long_ago(bus: Bus) -> None:
    await bus.publish(claimed(1, "one"), finished(1, attempt=1))

    with pytest.raises(Fenced):
        await bus.publish(claimed(1, "two"))

    assert await told(bus) == [claimed(1, "one"), finished(1, attempt=1)]


async def test_a_fenced_fact_told_again_in_the_same_words_counts_as_said(bus: Bus) -> None:
    await bus.publish(claimed(1))
    await bus.publish(claimed(1))
    await bus.publish(claimed(1), finished(1, attempt=1))

    assert await told(bus) == [claimed(1), finished(1, attempt=1)]


# every replica


async def test_every_replica_hears_what_is_told_from_now_on_in_order(side: Any) -> None:
    one, two = await side.bus("rollout:one"), await side.bus("rollout:two")
    heard: dict[str, list[Event]] = {"one": [], "two": []}

    def hearing(name: str) -> Callable[[Event], Any]:
        async def hear(event: Event) -> None:
            heard[name].append(event)
            if len(heard[name]) == 1:
                raise RuntimeError("a handler's error does not end the subscription")

        return hear

    await one.publish(RunCancelRequested(org="local", run_id="before"))
    await one.listen(EveryReplica((RunCancelRequested, StepFinished), hearing("one")))
    await two.listen(EveryReplica((RunCancelRequested, StepFinished), hearing("two")))
    said = [RunCancelRequested(org="local", run_id="after"), finished(1, 1), finished(2, 1)]
    await one.publish(*said)
    await until(lambda: len(heard["one"]) == len(heard["two"]) == 3)

    assert heard == {"one": said, "two": said}


# requests

STATE = RunState(
    run_id="r1", state="cancelled", algorithm="grpo", model="tiny", environment="local/sums",
    submitted_at=1.0, step=0, steps=3,
)  # fmt: skip


async def test_a_request_gets_the_reply_of_one_replica(side: Any) -> None:
    scheduler, asker = await side.bus("scheduler:one"), await side.bus("cli:1")
    asked: list[RunCancel] = []

    async def cancel(request: RunCancel) -> RunState:
        asked.append(request)
        return STATE

    await scheduler.answer("scheduler", {RunCancel: cancel})

    assert await asker.ask(RunCancel(org="local", run_id="r1")) == STATE
    assert asked == [RunCancel(org="local", run_id="r1")]


async def test_a_request_brings_its_askers_token_and_only_those_that_are_let_in_are_answered(side: Any) -> None:
    scheduler = await side.bus("scheduler:one")
    token = "flash_acme_0123_" + "s" * 40
    acme, nobody = await side.bus("cli:1", token), await side.bus("cli:2")
    came: list[tuple[Request, str]] = []

    async def admit(request: Request, token: str) -> None:
        came.append((request, token))
        if not token:
            raise Refused("who are you?")

    async def cancel(request: RunCancel) -> RunState:
        return STATE

    await scheduler.answer("scheduler", {RunCancel: cancel}, admit)
    asked = RunCancel(org="acme", run_id="r1")

    assert (acme.org, nobody.org) == ("acme", "local")
    assert await acme.ask(asked) == STATE
    with pytest.raises(Refused, match="who are you"):
        await nobody.ask(asked)
    assert came == [(asked, token), (asked, "")]


async def test_a_request_waits_for_a_replica_and_then_says_that_nobody_answers(side: Any) -> None:
    scheduler, asker = await side.bus("scheduler:one"), await side.bus("cli:1")

    with pytest.raises(NobodyAnswers, match=r"no scheduler took run\.cancel within 0\.1 s"):
        await asker.ask(RunCancel(org="local", run_id="r1"), timeout_s=0.1)

    async def cancel(request: RunCancel) -> RunState:
        return STATE

    asking = asyncio.create_task(asker.ask(RunCancel(org="local", run_id="r1"), timeout_s=5))
    await asyncio.sleep(0.05)
    await scheduler.answer("scheduler", {RunCancel: cancel})
    assert await asking == STATE


async def test_an_error_of_ours_reaches_the_asker_as_it_was_raised_and_any_other_as_a_bus_error(side: Any) -> None:
    scheduler, asker = await side.bus("scheduler:one"), await side.bus("cli:1")

    async def cancel(request: RunCancel) -> RunState:
        if request.run_id == "r1":
            raise NotFound("there is no run r1:\ntry `flash runs`")
        raise ValueError("oh")

    await scheduler.answer("scheduler", {RunCancel: cancel})

    with pytest.raises(NotFound, match="there is no run r1:\ntry `flash runs`"):
        await asker.ask(RunCancel(org="local", run_id="r1"))
    with pytest.raises(BusError, match=r"scheduler could not answer run\.cancel: ValueError: oh"):
        await asker.ask(RunCancel(org="local", run_id="r2"))


async def test_who_waits_for_a_replica_that_leaves_is_told_so(side: Any) -> None:
    scheduler, asker = await side.bus("scheduler:one"), await side.bus("cli:1")
    taken = asyncio.Event()

    async def cancel(request: RunCancel) -> RunState:
        taken.set()
        await asyncio.sleep(60)
        return STATE

    await scheduler.answer("scheduler", {RunCancel: cancel})
    asking = asyncio.create_task(asker.ask(RunCancel(org="local", run_id="r1"), timeout_s=30))
    await taken.wait()
    await scheduler.close(grace_s=0.05)

    async with asyncio.timeout(5):
        with pytest.raises(NobodyAnswers, match=r"the scheduler that took run\.cancel has left"):
            await asking


async def test_a_replica_that_is_on_its_way_is_seen_and_counts_once_it_answers(side: Any) -> None:
    one, asker = await side.bus("scheduler:one"), await side.bus("cli:1")

    async def cancel(request: RunCancel) -> RunState:
        return STATE

    await one.announce("scheduler", pool="tiny")
    [coming] = await asker.replicas(wait_s=0.2, announced=True)
    nobody = await asker.replicas(wait_s=0.2)
    await one.answer("scheduler", {RunCancel: cancel}, pool="tiny")
    [there] = await asker.replicas(wait_s=0.2, announced=True)

    assert (coming.service, coming.id, coming.metadata["pool"], coming.is_ready) == ("scheduler", "one", "tiny", False)
    assert nobody == []
    assert (there.id, there.is_ready) == ("one", True)
    assert await asker.replicas(wait_s=0.2) == [there]


async def test_a_request_that_takes_too_long_is_given_up(side: Any) -> None:
    scheduler, asker = await side.bus("scheduler:one"), await side.bus("cli:1")

    async def cancel(request: RunCancel) -> RunState:
        await asyncio.sleep(30)
        return STATE

    await scheduler.answer("scheduler", {RunCancel: cancel})

    with pytest.raises(BusError, match=r"said nothing for 0\.1 s"):
        await asker.ask(RunCancel(org="local", run_id="r1"), timeout_s=0.1)


async def test_a_replica_answers_several_requests_at_once(side: Any) -> None:
    scheduler, asker = await side.bus("scheduler:one"), await side.bus("cli:1")
    together = asyncio.Barrier(3)

    async def cancel(request: RunCancel) -> RunState:
        await together.wait()
        return STATE

    await scheduler.answer("scheduler", {RunCancel: cancel})

    await asyncio.gather(*(asker.ask(RunCancel(org="local", run_id=f"r{n}"), timeout_s=5) for n in range(3)))


async def test_several_replicas_share_the_requests_and_are_listed(side: Any) -> None:
    one, two = await side.bus("scheduler:one"), await side.bus("scheduler:two")
    answered: list[str] = []

    def by(name: str) -> Callable[[RunCancel], Any]:
        async def cancel(request: RunCancel) -> RunState:
            answered.append(name)
            return STATE

        return cancel

    await one.answer("scheduler", {RunCancel: by("one")}, pool="tiny")
    await two.answer("scheduler", {RunCancel: by("two")})
    for _ in range(40):
        await one.ask(RunCancel(org="local", run_id="r1"))

    assert set(answered) == {"one", "two"}
    replicas = sorted(await one.replicas(wait_s=0.2), key=lambda replica: replica.id)
    assert [(replica.service, replica.id) for replica in replicas] == [("scheduler", "one"), ("scheduler", "two")]
    assert dict(replicas[0].metadata) == {"pool": "tiny"}
    assert replicas[0].started_at > 1_600_000_000
    await two.close()
    assert [replica.id for replica in await one.replicas(wait_s=0.2)] == ["one"]


async def test_the_replies_of_a_request_that_streams_come_as_they_are_made_from_the_pool_that_was_asked(
    side: Any,
) -> None:
    tiny, large, asker = await side.bus("rollout:tiny"), await side.bus("rollout:large"), await side.bus("cli:1")
    go_on = asyncio.Event()

    def by(name: str) -> Callable[[Generate], AsyncIterator[GeneratedText]]:
        async def generate(request: Generate) -> AsyncIterator[GeneratedText]:
            yield GeneratedText(text=name)
            await go_on.wait()
            yield GeneratedText(text="!", finish_reason="stop")

        return generate

    await tiny.answer("rollout", {Generate: by("tiny")}, pool="tiny")
    await large.answer("rollout", {Generate: by("large")}, pool="large")

    parts = []
    async for part in asker.stream(Generate(pool="tiny", policy=PolicyRef(), messages=[]), timeout_s=5):
        parts.append(part.text)
        go_on.set()

    assert parts == ["tiny", "!"]


async def test_a_stream_of_replies_may_end_in_an_error(side: Any) -> None:
    rollout, asker = await side.bus("rollout:1"), await side.bus("cli:1")

    async def generate(request: Generate) -> AsyncIterator[GeneratedText]:
        yield GeneratedText(text="so far")
        raise NotFound("no such adapter")

    await rollout.answer("rollout", {Generate: generate}, pool="tiny")

    replies = asker.stream(Generate(pool="tiny", policy=PolicyRef(), messages=[]))

    assert (await anext(replies)).text == "so far"
    with pytest.raises(NotFound, match="no such adapter"):
        await anext(replies)
