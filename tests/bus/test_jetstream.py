"""What only a real server can show: kills, lost answers, stopped processes, large backlogs."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from flash.bus import Bus, EveryReplica, Fenced, Shared
from flash.bus.jetstream import JetStreamBus, connect
from flash.bus.jetstream.connection import Lost
from flash.bus.server import NatsServer, config
from flash.contracts.base import Event
from flash.contracts.groups import GroupGenerated, GroupRequested
from flash.contracts.requests import RunCancel, RunState
from flash.contracts.runs import RunFailed, RunStarted
from flash.contracts.steps import StepClaimed, StepFinished
from flash.contracts.values import Example, PolicyRef
from flash.errors import BusError
from flash.store.memory import MemoryStore

ACK_WAIT_S = 1.0
Connect = Callable[..., Any]


@pytest.fixture
async def replica(server: NatsServer) -> AsyncIterator[Connect]:
    """Makes one more replica on the test's server."""
    buses: list[JetStreamBus] = []
    store = MemoryStore()

    async def make(name: str = "test:1", **settings: float) -> JetStreamBus:
        settings = {"ack_wait_s": ACK_WAIT_S, "retry_s": 0.02, **settings}
        buses.append(await connect(server.url, store, name, **settings))
        return buses[-1]

    yield make
    for bus in buses:
        await bus.close(grace_s=0)


@pytest.fixture
async def process(server: NatsServer, tmp_path: Path) -> AsyncIterator[Connect]:
    """Starts a replica in a process of its own."""
    made: list[asyncio.subprocess.Process] = []

    async def start(role: str, name: str, **environment: str) -> asyncio.subprocess.Process:
        program = Path(__file__).with_name("replica_process.py")
        started = await asyncio.create_subprocess_exec(
            sys.executable, program, server.url, tmp_path / "store", role, name, str(ACK_WAIT_S),
            stdout=asyncio.subprocess.PIPE, env={**os.environ, **environment},
        )  # fmt: skip
        made.append(started)
        assert started.stdout is not None
        assert await started.stdout.readline() == b"ready\n"
        return started

    yield start
    for started in made:
        if started.returncode is None:
            started.kill()
        await started.wait()


def requested(group: int = 0) -> GroupRequested:
    return GroupRequested(
        pool="tiny", org="local", run_id="r1", attempt=1, scope="train", step=1, group=group,
        example=Example(index=group, id=str(group), input="2 + 2"), policy=PolicyRef(),
    )  # fmt: skip


def generated(event: GroupRequested, replica: str = "") -> GroupGenerated:
    return GroupGenerated(
        org=event.org, run_id=event.run_id, scope=event.scope, step=event.step, group=event.group,
        example=event.example, policy=event.policy, prompt_ids=b"", rollouts=[], replica=replica,
    )  # fmt: skip


def started(steps: int = 3) -> RunStarted:
    return RunStarted(pool="tiny", org="local", run_id="r1", attempt=1, steps=steps, prompts_per_step=1, rows=8)


def claimed(attempt: int, learner: str = "one") -> StepClaimed:
    return StepClaimed(org="local", run_id="r1", attempt=attempt, learner=learner)


def finished(step: int, attempt: int) -> StepFinished:
    return StepFinished(org="local", run_id="r1", attempt=attempt, step=step, policy=PolicyRef(version=step))


async def until(holds: Callable[[], Any], within_s: float = 10.0) -> None:
    end = asyncio.get_running_loop().time() + within_s
    while not holds():
        assert asyncio.get_running_loop().time() < end, "it did not come true in time"
        await asyncio.sleep(0.01)


async def told(bus: Bus, pattern: str = "flash.>") -> list[Any]:
    return [fact.event async for fact in bus.history(pattern)]


# the server dies and comes back


async def test_nothing_is_lost_or_out_of_order_when_the_server_is_killed_and_restarted(
    server: NatsServer, replica: Connect
) -> None:
    rollout, reader = await replica("rollout:1"), await replica("recorder:1")
    read: list[int] = []
    everywhere: list[int] = []

    async def on_group_requested(event: GroupRequested) -> list[Event]:
        await asyncio.sleep(0.02)
        return [generated(event)]

    async def follow() -> None:
        async for fact in reader.replay(GroupRequested.pattern()):
            read.append(fact.event.group)

    async def hear(event: GroupRequested) -> None:
        everywhere.append(event.group)

    await rollout.listen(Shared("rollout", GroupRequested, on_group_requested, slots=4))
    await reader.listen(EveryReplica((GroupRequested,), hear))
    following = asyncio.create_task(follow())

    async def tell() -> None:
        for group in range(120):
            await reader.publish(requested(group))
            await asyncio.sleep(0.005)

    telling = asyncio.create_task(tell())
    for _ in range(2):
        await asyncio.sleep(0.2)
        await server.kill()
        await asyncio.sleep(0.1)
        await server.start()
    await telling
    began = time.monotonic()
    await until(lambda: len(read) == len(everywhere) == 120)
    recovered_s = time.monotonic() - began
    while len(await told(reader, GroupGenerated.pattern())) < 120:
        assert time.monotonic() - began < 10
        await asyncio.sleep(0.05)
    following.cancel()

    assert read == everywhere == list(range(120))
    assert recovered_s < 5


async def test_requests_are_answered_again_after_the_server_was_killed(server: NatsServer, replica: Connect) -> None:
    scheduler, asker = await replica("scheduler:1"), await replica("cli:1")
    state = RunState(
        run_id="r1", state="cancelled", algorithm="grpo", model="tiny", environment="local/sums",
        submitted_at=1.0, step=0, steps=3,
    )  # fmt: skip

    async def cancel(_: RunCancel) -> RunState:
        return state

    await scheduler.answer("scheduler", {RunCancel: cancel})
    await server.kill()
    await server.start()

    assert await asker.ask(RunCancel(org="local", run_id="r1"), timeout_s=5) == state
    assert [found.id for found in await asker.replicas()] == ["1"]


async def test_what_is_worked_at_while_the_server_is_killed_is_not_begun_again(
    server: NatsServer, replica: Connect
) -> None:
    # The server writes down in whole seconds since when a message is held, so less would be too short for this.
    one, two = [await replica(f"rollout:{number}", ack_wait_s=2.5) for number in range(2)]
    heard: list[str] = []

    def by(name: str) -> Callable[[GroupRequested], Any]:
        async def on_group_requested(event: GroupRequested) -> list[Event]:
            heard.append(name)
            await asyncio.sleep(3.5)
            return [generated(event)]

        return on_group_requested

    await one.listen(Shared("rollout", GroupRequested, by("one"), slots=2))
    await one.publish(requested())
    await until(lambda: heard)
    await two.listen(Shared("rollout", GroupRequested, by("two"), slots=2))
    await asyncio.sleep(0.3)
    await server.kill()
    await server.start()
    await anext(aiter(two.replay(GroupGenerated.pattern())))
    await asyncio.sleep(0.1)

    assert heard == ["one"]


# who holds a message


async def test_work_stays_with_its_replica_while_its_event_loop_is_blocked(replica: Connect) -> None:
    one, two = await replica("rollout:1"), await replica("rollout:2")
    heard: list[str] = []

    async def blocks(event: GroupRequested) -> list[Event]:
        heard.append("one")
        await asyncio.sleep(0.3)
        time.sleep(2.5 * ACK_WAIT_S)  # noqa: ASYNC251 - that is the point
        return [generated(event)]

    async def works(event: GroupRequested) -> list[Event]:
        heard.append("two")
        return [generated(event)]

    await one.listen(Shared("rollout", GroupRequested, blocks))
    await one.publish(requested())
    await until(lambda: heard)
    await two.listen(Shared("rollout", GroupRequested, works))
    await anext(aiter(two.replay(GroupGenerated.pattern())))
    await asyncio.sleep(0.2)

    assert heard == ["one"]
    assert await told(two, GroupGenerated.pattern()) == [generated(requested())]


async def test_a_message_that_comes_again_to_who_works_at_it_is_taken_without_beginning_again(
    replica: Connect,
) -> None:
    bus = await replica("rollout:1")
    heard: list[int] = []

    async def works(event: GroupRequested) -> list[Event]:
        heard.append(event.group)
        await asyncio.sleep(2.5 * ACK_WAIT_S)
        return [generated(event)]

    await bus.listen(Shared("rollout", GroupRequested, works, slots=2))
    await bus.publish(requested())
    await until(lambda: heard)
    await bus.keeper.stop()
    await anext(aiter(bus.replay(GroupGenerated.pattern())))
    await asyncio.sleep(0.1)

    assert heard == [0]
    (pool,) = await bus.pools()
    assert (pool.waiting, pool.in_progress) == (0, 0)


@pytest.mark.parametrize(
    ("word", "takes_it_from_the_holder"), [(b"+ACK", True), (b"-NAK", True), (b"+TERM", True), (b"+WPI", False)]
)
async def test_on_this_server_the_word_of_an_old_delivery_counts_for_the_new_one(
    replica: Connect, word: bytes, takes_it_from_the_holder: bool
) -> None:
    """Why who was fenced says nothing at all, and who was silent too long hands nothing back."""
    zombie, holder = await replica("learner:zombie"), await replica("learner:holder")

    async def never(_: RunStarted) -> list[Event]:
        raise AssertionError

    shared = Shared("learner", RunStarted, never)
    old_consumer = await zombie._stream.consume(shared)
    new_consumer = await holder._stream.consume(shared)
    await zombie.publish(started())
    old = await old_consumer.next()
    await zombie.keeper.stop()
    new = await new_consumer.next()
    assert (old.count, new.count) == (1, 2)

    await zombie.connection.send(old.ack_subject, word)
    await zombie.connection.round_trip(timeout_s=1)
    third = asyncio.create_task(new_consumer.next())
    await asyncio.sleep(0.1)
    (pool,) = await holder.pools()

    assert (pool.in_progress == 0 or third.done()) == takes_it_from_the_holder
    third.cancel()


async def test_no_message_waits_for_a_replica_that_has_closed(replica: Connect) -> None:
    teller = await replica("scheduler:1")
    heard: list[int] = []

    async def on_group_requested(event: GroupRequested) -> list[Event]:
        await asyncio.sleep(0.001)
        heard.append(event.group)
        return []

    async def tell() -> None:
        for group in range(300):
            await teller.publish(requested(group))

    telling = asyncio.create_task(tell())
    for number in range(12):
        brief = await replica(f"rollout:{number}", ack_wait_s=30)
        await brief.listen(Shared("rollout", GroupRequested, on_group_requested, slots=4))
        await asyncio.sleep(0.03)
        await brief.close(grace_s=0)
    await telling
    last = await replica("rollout:last", ack_wait_s=30)
    await last.listen(Shared("rollout", GroupRequested, on_group_requested, slots=4))
    await until(lambda: set(heard) == set(range(300)), within_s=5)


async def test_who_was_silent_too_long_takes_nothing_from_the_holder_when_it_raises_or_closes(replica: Connect) -> None:
    late, holder, third = [await replica(f"rollout:{name}") for name in ("late", "holder", "third")]
    heard: list[str] = []
    wake = asyncio.Event()

    async def raises(event: GroupRequested) -> list[Event]:
        heard.append("late")
        await wake.wait()
        raise RuntimeError("woken too late")

    async def works(event: GroupRequested) -> list[Event]:
        heard.append("holder")
        await asyncio.sleep(60)
        return [generated(event)]

    await late.listen(Shared("rollout", GroupRequested, raises, slots=2))
    await late.publish(requested(0), requested(1))
    await until(lambda: len(heard) == 2)
    await late.keeper.stop()
    await holder.listen(Shared("rollout", GroupRequested, works, slots=2))
    await until(lambda: len(heard) == 4)
    await third.listen(Shared("rollout", GroupRequested, works, slots=2))
    wake.set()
    await late.close(grace_s=0.1)
    await asyncio.sleep(0.3)

    assert heard == ["late", "late", "holder", "holder"]
    assert (await holder.pools())[0].in_progress == 2


async def test_a_stopped_learner_that_wakes_is_refused_and_leaves_the_run_to_its_heir(
    replica: Connect, process: Connect
) -> None:
    bus = await replica("scheduler:1")
    zombie = await process("learner", "zombie")
    await bus.publish(started(steps=25))
    steps = aiter(bus.replay(StepFinished.pattern()))
    for _ in range(3):
        await anext(steps)

    zombie.send_signal(signal.SIGSTOP)
    await process("learner", "heir")
    async for fact in bus.replay(StepClaimed.pattern()):
        if fact.event.learner == "heir":
            break
    zombie.send_signal(signal.SIGCONT)
    while (await anext(steps)).event.step < 25:
        pass

    facts = await told(bus, "flash.step.>")
    takeover = next(place for place, fact in enumerate(facts) if getattr(fact, "learner", "") == "heir")
    assert [fact.step for fact in facts if isinstance(fact, StepFinished)] == list(range(1, 26))
    assert {fact.attempt for fact in facts[:takeover]} == {1}
    assert {fact.attempt for fact in facts[takeover:]} == {2}


@pytest.mark.parametrize("point", ["told", "acknowledged"])
async def test_a_replica_killed_around_the_acknowledgement_leaves_each_fact_told_once(
    replica: Connect, process: Connect, point: str
) -> None:
    bus = await replica("scheduler:1")
    doomed = await process("rollout", "doomed", FLASH_KILL_AT=f"{point}:3")
    await bus.publish(*(requested(group) for group in range(6)))
    assert await doomed.wait() == -signal.SIGKILL
    assert (await bus.pools())[0].in_progress == (1 if point == "told" else 0)

    await process("rollout", "heir")
    facts = aiter(bus.replay(GroupGenerated.pattern()))
    heard = [(await anext(facts)).event for _ in range(6)]
    await asyncio.sleep(1.5 * ACK_WAIT_S)
    (pool,) = await bus.pools()

    assert (pool.waiting, pool.in_progress) == (0, 0)
    assert [fact.replica for fact in heard] == ["doomed"] * 3 + ["heir"] * 3
    assert await told(bus, GroupGenerated.pattern()) == heard


# first told wins, the fence


async def test_the_first_told_stands_when_the_server_has_forgotten_its_message_id(replica: Connect) -> None:
    bus = await replica(duplicate_window_s=0.1)
    await bus.publish(generated(requested(), "first"))

    await asyncio.sleep(0.4)
    await bus.publish(generated(requested(), "second"))

    assert await told(bus) == [generated(requested(), "first")]


@pytest.fixture
async def losing(replica: Connect, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A bus that loses the server's first answer to every publish on these subjects."""
    bus = await replica()
    request = bus.connection.request
    lost: set[str] = set()

    async def loses(subject: str, body: bytes, **more: Any) -> Any:
        answer = await request(subject, body, **more)
        if not subject.startswith("$JS") and subject not in lost:
            lost.add(subject)
            raise Lost("the answer was lost")
        return answer

    monkeypatch.setattr(bus.connection, "request", loses)
    return bus


async def test_a_retry_after_a_lost_answer_counts_as_said(losing: JetStreamBus) -> None:
    await losing.publish(requested(), claimed(1), finished(1, 1), finished(2, 1))

    assert await told(losing) == [requested(), claimed(1), finished(1, 1), finished(2, 1)]


async def test_who_lost_the_answer_and_then_the_run_falls_silent(replica: Connect, losing: JetStreamBus) -> None:
    other = await replica("learner:other")
    ends: list[str] = []

    async def on_run_started(event: RunStarted) -> AsyncIterator[Event]:
        try:
            yield claimed(1, "losing")
            await other.publish(claimed(2, "other"))
            yield finished(1, 1)
            ends.append("went on")
        finally:
            ends.append("ended")

    await losing.listen(Shared("learner", RunStarted, on_run_started))
    await losing.publish(started())
    await until(lambda: ends)

    assert ends == ["ended"]
    assert await told(other, "flash.step.>") == [claimed(1, "losing"), claimed(2, "other")]


async def test_the_same_words_of_a_zombie_are_no_retry_of_its_heir(replica: Connect) -> None:
    zombie, heir = await replica("learner:zombie"), await replica("learner:heir")
    await zombie.publish(claimed(1, "zombie"))
    await heir.publish(claimed(2, "heir"), finished(1, 2))

    with pytest.raises(Fenced):
        await zombie.publish(finished(1, 1))

    assert (await told(heir))[-1] == finished(1, 2)


async def test_an_update_of_a_record_whose_answer_was_lost_is_made_once(replica: Connect) -> None:
    bus = await replica()
    records = bus.records("counters")
    await records.update("n", lambda _: b"1")
    request = bus.connection.request
    lost: list[str] = []

    async def loses(subject: str, body: bytes, **more: Any) -> Any:
        answer = await request(subject, body, **more)
        if subject.startswith("$KV") and not lost:
            lost.append(subject)
            raise Lost("the answer was lost")
        return answer

    bus.connection.request = loses

    assert await records.update("n", lambda found: (found or b"") + b"1") == b"11"
    assert await records.get("n") == b"11"


# reading


async def test_what_a_newer_flash_said_is_passed_over(replica: Connect) -> None:
    bus = await replica()
    await bus.connection.request("flash.group.praised.v1.local.r1", b"{}", timeout_s=2)
    await bus.publish(RunFailed(org="local", run_id="r1", reason="x"))

    assert await told(bus) == [RunFailed(org="local", run_id="r1", reason="x")]


async def test_a_history_ends_when_what_it_waits_for_is_deleted_meanwhile(replica: Connect) -> None:
    bus = await replica()
    await bus.publish(*(requested(group) for group in range(200)))
    facts = aiter(bus.history(GroupRequested.pattern()))
    await anext(facts)

    await bus._stream.api("STREAM.PURGE.FLASH", {})
    rest = [fact async for fact in facts]

    assert len(rest) < 200


# connecting


async def test_who_finds_no_server_is_told_how_to_start_one() -> None:
    with pytest.raises(BusError, match=r"127\.0\.0\.1:9 does not answer within 0\.3 s: is Flash up\? `flash up`"):
        await connect("nats://u:secret@127.0.0.1:9", MemoryStore(), "cli:1", timeout_s=0.3)


async def test_an_operators_settings_of_the_stream_stay(replica: Connect) -> None:
    first = await replica()
    there = await first._stream.api("STREAM.INFO.FLASH")
    await first._stream.api("STREAM.UPDATE.FLASH", {**there["config"], "max_bytes": 1_000_000_000})

    second = await replica("test:2", duplicate_window_s=60)

    settings = (await second._stream.api("STREAM.INFO.FLASH"))["config"]
    assert (settings["max_bytes"], settings["duplicate_window"]) == (1_000_000_000, 60_000_000_000)


def test_the_server_listens_on_this_machine_only(tmp_path: Path) -> None:
    written = config(tmp_path / 'a "folder"', 4222, monitor_port=8222)

    assert "listen: 127.0.0.1:4222\nhttp: 127.0.0.1:8222\n" in written
    assert 'a \\"folder\\"' in written


# memory


@pytest.mark.slow
async def test_a_hundred_thousand_waiting_messages_cost_less_than_64_mib(replica: Connect) -> None:
    teller, bus = await replica("scheduler:1"), await replica("rollout:1")
    stopped, held = asyncio.Event(), []

    async def waits(event: GroupRequested) -> list[Event]:
        held.append(event)
        await stopped.wait()
        return []

    async def hears(event: GroupRequested) -> None:
        held.append(event)
        await stopped.wait()

    await bus.listen(Shared("rollout", GroupRequested, waits, slots=8), EveryReplica((GroupRequested,), hears))
    reading = aiter(bus.replay("flash.>"))
    before = resident_mib()

    for group in range(100_000):
        event = requested(group)
        await teller.connection.send(event.subject, event.encode())
        if group % 1_000 == 0:
            await teller.connection.round_trip(timeout_s=10)
    await teller.connection.round_trip(timeout_s=10)
    await anext(reading)
    await asyncio.sleep(2)
    (pool,) = await bus.pools()

    assert (pool.waiting, pool.in_progress, len(held)) == (99_992, 8, 9)
    assert resident_mib() - before < 64


def resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
