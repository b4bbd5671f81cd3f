"""Deleting a run: whether it may go, and taking away all that it has left. Of the facts about it, one stays: that it is
gone, so that nobody submits another under its id.
"""

from collections.abc import Iterable

import structlog

from flash import chaos
from flash.bus import Bus
from flash.contracts.base import RunEvent
from flash.contracts.catalogue import EVENTS
from flash.contracts.keys import dataset_folder, run_of_adapter, run_prefix, spec_key
from flash.contracts.record import RecordClosed
from flash.contracts.runs import RunDeleted, RunSubmitted
from flash.contracts.spec import RunSpec
from flash.errors import NobodyAnswers, NotFound, Refused
from flash.store import Store
from services.scheduler.runs import Run

log = structlog.get_logger()


def gone(run_id: str) -> NotFound:
    return NotFound(f"there is no run {run_id}: `flash runs` lists them")


async def require_deletable(bus: Bus, run: Run, live: Iterable[RunSpec]) -> None:
    """Raises Refused, and NobodyAnswers while its record is not closed: that may be asked again."""
    run_id = run.spec.run_id
    if run.ending is None or not run.ending.told:
        raise Refused(f"run {run_id} is {run.state}: `flash cancel {run_id}` first")
    for other in live:
        if starts_from(other) == run_id:
            does = "starts from" if other.train else "evaluates"
            raise Refused(f"{other.run_id} is not over, and {does} {run_id}: `flash cancel {other.run_id}` first")
    closed = RecordClosed.pattern(org=run.spec.org, run_id=run_id, attempt=run.attempt)
    if await bus.last(closed) is None:
        raise NobodyAnswers(f"the record of {run_id} is not closed yet, which takes up to a minute")


def starts_from(spec: RunSpec) -> str:
    """The run whose adapter this one starts from, or evaluates; empty: none's."""
    start = spec.train.init_from_adapter if spec.train else spec.policy
    return run_of_adapter(start.key) if start else ""


def datasets_of(spec: RunSpec) -> set[str]:
    """Where the rows of a run lie, those that its policies are evaluated on included."""
    return {dataset_folder(spec), dataset_folder(spec.of("eval"))}


async def erase_rows(bus: Bus, store: Store, event: RunDeleted, known: Iterable[RunSpec]) -> None:
    """The rows that no other run has. Nothing where they are erased already: that it was submitted is forgotten."""
    told = await bus.last(RunSubmitted.pattern(org=event.org, run_id=event.run_id))
    if told is None or not isinstance(told.event, RunSubmitted):
        return
    used = {place for other in known if other.run_id != event.run_id for place in datasets_of(other)}
    for place in sorted(datasets_of(told.event.spec) - used):
        await _erase(store, place)


async def erase(bus: Bus, store: Store, event: RunDeleted) -> None:
    """Everything under the run's prefix, then the facts. Again from the start by whoever takes over.

    The spec goes first: whoever has just put something beside it, and then finds none, takes it away again.
    """
    await store.delete(spec_key(event.run_id))
    objects = await _erase(store, run_prefix(event.run_id))
    chaos.point("objects-erased")
    about = {"org": event.org, "run_id": event.run_id}
    kinds = [row.event for row in EVENTS if issubclass(row.event, RunEvent) and row.event is not RunDeleted]
    if told := await bus.last(RunDeleted.pattern(**about)):
        # That it was submitted is forgotten last: from it follows which rows were its own.
        kinds.sort(key=lambda kind: kind is RunSubmitted)
        await bus.forget(*(kind.pattern(**about) for kind in kinds), before=told.sequence)
    log.info("run.erased", run_id=event.run_id, objects=objects)


async def _erase(store: Store, prefix: str) -> int:
    keys = [stat.key async for stat in store.list(prefix)]
    for key in keys:
        await store.delete(key)
        chaos.point("object-erased")
    return len(keys)
