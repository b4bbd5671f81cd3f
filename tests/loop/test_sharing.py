"""Runs share a pool, and replicas share the work."""

import asyncio
import time
from collections import Counter
from typing import Any

import pytest

from flash.contracts.groups import GroupGenerated, GroupScored
from flash.contracts.runs import RunCompleted

STEPS = 100
WINDOW_S = 30.0


@pytest.mark.long
async def test_two_equal_runs_share_the_pool_evenly_and_cost_little_more_than_their_sum(stack: Any) -> None:
    await timed(stack, "warm")
    before_s = await timed(stack, "before")
    both_s = await timed(stack, "one", "other")
    alone_s = (before_s + await timed(stack, "after")) / 2  # around it, as the machine's speed drifts

    facts = [(told.time, told.event.run_id) async for told in stack.bus.history(GroupScored.pattern())]
    told = [(at, run) for at, run in facts if run in ("one", "other")]
    both_live_until = min(max(at for at, run in told if run == name) for name in ("one", "other"))
    shares = list(shares_of("one", [(at, run) for at, run in told if at <= both_live_until]))
    print(f"alone {alone_s:.1f} s, both {both_s:.1f} s, shares {min(shares):.2f} to {max(shares):.2f}")
    assert all(0.4 <= share <= 0.6 for share in shares)
    assert both_s <= 2.3 * alone_s


async def timed(stack: Any, *names: str) -> float:
    """How long these equal runs take together, in seconds."""
    began = time.monotonic()
    await asyncio.gather(*(stack.train(name, steps=STEPS, batch_size=8) for name in names))
    for name in names:
        assert isinstance(await stack.outcome(name, within_s=600), RunCompleted)
    return time.monotonic() - began


def shares_of(run_id: str, told: list[tuple[float, str]]) -> Any:
    """The run's share of every full window that begins at a fact; of the whole where it is shorter than a window."""
    last = told[-1][0]
    starts = [at for at, _ in told if at + WINDOW_S <= last] or [told[0][0]]
    for start in starts:
        runs = [run for at, run in told if start <= at <= start + WINDOW_S]
        yield runs.count(run_id) / len(runs)


@pytest.mark.slow
async def test_two_rollouts_and_two_scorers_share_the_work(stack: Any) -> None:
    await stack.run("rollout", "rollout-2", FLASH_SLOTS="2")
    await stack.replace("rollout-1", FLASH_SLOTS="2")
    await stack.run("scorer", "scorer-2")
    async with asyncio.timeout(60):
        while not {"rollout-1", "rollout-2", "scorer-2"} <= {r.id for r in await stack.bus.replicas(wait_s=0.3)}:
            pass

    await stack.train("r1", steps=12, batch_size=8)

    assert isinstance(await stack.outcome("r1"), RunCompleted)
    for kind in (GroupGenerated, GroupScored):
        by = Counter([told.event.replica async for told in stack.bus.history(kind.pattern())])
        assert len(by) == 2
        assert min(by.values()) >= 0.25 * sum(by.values()), by
