"""A process that a test may stop or kill: `replica_process.py URL STORE learner|rollout NAME ACK_WAIT_S`."""

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from flash.bus import Shared
from flash.bus.jetstream import connect
from flash.contracts.base import Event
from flash.contracts.groups import GroupGenerated, GroupRequested
from flash.contracts.runs import RunStarted
from flash.contracts.steps import StepClaimed, StepFinished
from flash.contracts.values import PolicyRef
from flash.store.files import FileStore


async def main(url: str, store: str, role: str, name: str, ack_wait_s: str) -> None:
    bus = await connect(url, FileStore(Path(store)), f"{role}:{name}", ack_wait_s=float(ack_wait_s))

    async def on_run_started(event: RunStarted) -> AsyncIterator[Event]:
        newest = await bus.last(StepClaimed.pattern(org=event.org, run_id=event.run_id))
        attempt = newest.event.attempt + 1 if newest else 1  # type: ignore[attr-defined]
        done = await bus.last(StepFinished.pattern(org=event.org, run_id=event.run_id))
        first = done.event.step + 1 if done else 1  # type: ignore[attr-defined]
        yield StepClaimed(org=event.org, run_id=event.run_id, attempt=attempt, learner=name)
        for step in range(first, event.steps + 1):
            await asyncio.sleep(0.1)
            policy = PolicyRef(version=step)
            yield StepFinished(org=event.org, run_id=event.run_id, attempt=attempt, step=step, policy=policy)

    async def on_group_requested(event: GroupRequested) -> list[Event]:
        return [
            GroupGenerated(
                **{field: getattr(event, field) for field in ("org", "run_id", "scope", "step", "group")},
                example=event.example,
                policy=event.policy,
                prompt_ids=b"",
                rollouts=[],
                replica=name,
            )
        ]

    if role == "learner":
        await bus.listen(Shared("learner", RunStarted, on_run_started, max_deliveries=0))
    else:
        await bus.listen(Shared("rollout", GroupRequested, on_group_requested))
    print("ready", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
