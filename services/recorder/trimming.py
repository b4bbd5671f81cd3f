"""Takes groups out of the stream that nobody needs there any more, so that a run of any length keeps a short one.

A training group stays until it is written down, two checkpoints cover its step (a learner that cannot read the newest
goes back to the one before), and `keep_steps` steps are finished after it. A group that evaluates a policy of a
training run stays until that evaluation and two later ones are summed up and written. The facts of runs and steps stay:
schedulers and learners fold them.
"""

import msgspec
import structlog

from flash.bus import Bus
from flash.contracts.groups import GroupGenerated, GroupRequested, GroupScored
from flash.contracts.keys import spec_key
from flash.contracts.runs import RunEvaluated
from flash.contracts.spec import RunSpec
from flash.contracts.steps import StepFinished, StepSaved
from flash.errors import NoSuchObject
from flash.store import Store

KEPT_EVALUATIONS = 2
"""The newest ones of a run stay whole: somebody may still be playing one of their groups a second time."""

log = structlog.get_logger()


class Trimmer:
    """Remembers nothing: whoever trims again does no harm."""

    def __init__(self, bus: Bus, store: Store, keep_steps: int) -> None:
        self._bus = bus
        self._store = store
        self._keep_steps = keep_steps

    async def trim(self, org: str, run_id: str, written: int) -> None:
        """Forget a run's groups as far as that is safe; everything up to `written` lies in segments."""
        await self._trim_evaluations(org, run_id, written)
        saved = await self._steps(StepSaved, org, run_id)
        finished = await self._steps(StepFinished, org, run_id)
        covered = last_to_forget(saved, finished, keep_steps=self._keep_steps)
        if covered < 1:
            return
        first_needed = await self._first_needed(org, run_id, covered)
        before = min(written + 1, first_needed or written + 1)
        known = {"org": org, "run_id": run_id, "scope": "train"}
        patterns = [kind.pattern(**known) for kind in (GroupRequested, GroupGenerated, GroupScored)]
        await self._bus.forget(*patterns, before=before)
        log.info("stream.trimmed", run_id=run_id, step=covered, before=before)

    async def _trim_evaluations(self, org: str, run_id: str, written: int) -> None:
        """The newest first: where one has left the stream, those before it have."""
        told = [told async for told in self._bus.history(RunEvaluated.pattern(org=org, run_id=run_id))]
        for evaluated in reversed([fact for fact in told[:-KEPT_EVALUATIONS] if fact.sequence <= written]):
            assert isinstance(evaluated.event, RunEvaluated)
            known = {"org": org, "run_id": run_id, "scope": "eval", "step": evaluated.event.step}
            patterns = [kind.pattern(**known) for kind in (GroupRequested, GroupGenerated, GroupScored)]
            if await self._bus.last(patterns[-1]) is None:
                return
            await self._bus.forget(*patterns, before=evaluated.sequence)

    async def _steps(self, kind: type[StepSaved] | type[StepFinished], org: str, run_id: str) -> list[int]:
        told = self._bus.history(kind.pattern(org=org, run_id=run_id))
        return [fact.event.step async for fact in told if isinstance(fact.event, kind)]

    async def _first_needed(self, org: str, run_id: str, covered: int) -> int | None:
        """Where the first group of a later step was asked for: whatever is told of it stands behind that.

        Groups of some steps are asked for together, as many as `max_lag` lets run ahead, and the others later.
        """
        spec = await self._spec(run_id)
        ahead = spec.train.max_lag if spec and spec.train else 0
        patterns = [
            GroupRequested.pattern(org=org, run_id=run_id, scope="train", step=step)
            for step in range(covered + 1, covered + 2 + ahead)
        ]
        async for told in self._bus.history(*patterns):
            return told.sequence
        return None

    async def _spec(self, run_id: str) -> RunSpec | None:
        try:
            return msgspec.json.decode(await self._store.get(spec_key(run_id)), type=RunSpec)
        except NoSuchObject:
            return None


def last_to_forget(saved: list[int], finished: list[int], *, keep_steps: int) -> int:
    """The newest step whose groups may go; 0 where there is none."""
    if len(saved) < 2:
        return 0
    return max(0, min(sorted(saved)[-2], max(finished, default=0) - keep_steps))
