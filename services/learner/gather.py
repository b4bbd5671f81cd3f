"""A step's groups, in the order of their index, from a stream on which they stand in the order they were told."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import cast

from flash.bus import Bus, Told
from flash.contracts.groups import GroupGenerated, GroupScored
from flash.contracts.steps import StepFinished


class Groups:
    """Reads a run's training groups no further than the step asked for.

    What comes early for later steps is kept; there is little of it, as nobody asks for the groups of step `s` before
    version `s - 1 - max_lag` is out.
    """

    def __init__(self, bus: Bus, *, org: str, run_id: str, per_step: int, done: int) -> None:
        """`done`: the last step that needs no groups any more."""
        self._bus = bus
        self._run = {"org": org, "run_id": run_id}
        self._told: AsyncIterator[Told] = bus.replay(GroupScored.pattern(**self._run, scope="train"), after=0)
        self._per_step = per_step
        self._done = done
        self._early: dict[int, dict[int, GroupScored]] = {}
        self._newest: tuple[int, GroupScored | None] = done, None
        """The newest version of the policy that has played a group, and the first of its groups to be scored."""

    async def of_step(self, step: int) -> list[GroupScored]:
        """Waits until the last of them is scored. Steps are asked for in order."""
        found = self._early.setdefault(step, {})
        while len(found) < self._per_step:
            group = cast("GroupScored", (await anext(self._told)).event)
            if group.step > self._done and 0 <= group.group < self._per_step:
                self._early.setdefault(group.step, {}).setdefault(group.group, group)
                if group.policy.version > self._newest[0]:
                    self._newest = group.policy.version, group
        self._done = step
        del self._early[step]
        return [found[index] for index in sorted(found)]

    async def pickup_s(self) -> float | None:
        """How long after the learner's word for it the newest policy had played a group, by the clock of the stream.

        None: it was told before, or the policy is older than this reading.
        """
        version, group = self._newest
        if group is None:
            return None
        self._newest = version, None
        place = {**self._run, "scope": group.scope, "step": group.step, "group": group.group}
        finished, generated = await asyncio.gather(
            self._bus.last(StepFinished.pattern(**self._run, step=version)),
            self._bus.last(GroupGenerated.pattern(**place)),
        )
        return generated.time - finished.time if finished and generated else None

    async def close(self) -> None:
        if isinstance(self._told, AsyncGenerator):
            await self._told.aclose()
