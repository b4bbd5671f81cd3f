"""What only the memory bus can show: time that is moved by hand."""

import asyncio

from flash.bus import Shared
from flash.bus.memory import HandMovedClock, MemoryBus, MemoryStream
from flash.contracts.runs import RunCancelRequested, RunFailed


def failed(reason: str) -> RunFailed:
    return RunFailed(org="local", run_id="r1", reason=reason)


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_the_first_told_stands_an_hour_later() -> None:
    clock = HandMovedClock()
    bus = MemoryBus(stream=MemoryStream(clock=clock))
    await bus.publish(failed("first"))

    clock.advance(3600)
    await bus.publish(failed("second"))

    assert [fact.event async for fact in bus.history("flash.>")] == [failed("first")]


async def test_what_a_killed_replica_held_comes_again_after_the_acknowledgement_wait_and_not_before() -> None:
    clock = HandMovedClock()
    one = MemoryBus(stream=MemoryStream(ack_wait_s=30, clock=clock))
    two = one.replica("test:2")
    heard: list[str] = []

    async def hangs(event: RunCancelRequested) -> list[RunFailed]:
        heard.append("one")
        await asyncio.sleep(60)
        return []

    async def works(event: RunCancelRequested) -> list[RunFailed]:
        heard.append("two")
        return []

    await one.listen(Shared("learner", RunCancelRequested, hangs))
    await one.publish(RunCancelRequested(org="local", run_id="r1"))
    await settle()
    await one.kill()
    await two.listen(Shared("learner", RunCancelRequested, works))

    clock.advance(29)
    await settle()
    assert heard == ["one"]

    clock.advance(2)
    await settle()
    assert heard == ["one", "two"]
    await two.close()
