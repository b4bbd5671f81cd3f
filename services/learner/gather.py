"""A step's groups, in the order of their index, from a stream on which they stand in the order they were told."""

from collections.abc import AsyncGenerator, AsyncIterator
from typing import cast

from flash.bus import Bus, Told
from flash.contracts.groups import GroupScored


class Groups:
    """Reads a run's training groups no further than the step asked for.

    What comes early for later steps is kept; there is little of it, as nobody asks for the groups of step `s` before
    version `s - 1 - max_lag` is out.
    """

    def __init__(self, bus: Bus, *, org: str, run_id: str, per_step: int, done: int) -> None:
        """`done`: the last step that needs no groups any more."""
        self._told: AsyncIterator[Told] = bus.replay(
            GroupScored.pattern(org=org, run_id=run_id, scope="train"), after=0
        )
        self._per_step = per_step
        self._done = done
        self._early: dict[int, dict[int, GroupScored]] = {}

    async def of_step(self, step: int) -> list[GroupScored]:
        """Waits until the last of them is scored. Steps are asked for in order."""
        found = self._early.setdefault(step, {})
        while len(found) < self._per_step:
            group = cast("GroupScored", (await anext(self._told)).event)
            if group.step > self._done and 0 <= group.group < self._per_step:
                self._early.setdefault(group.step, {}).setdefault(group.group, group)
        self._done = step
        del self._early[step]
        return [found[index] for index in sorted(found)]

    async def close(self) -> None:
        if isinstance(self._told, AsyncGenerator):
            await self._told.aclose()
