"""Deleting a run: whether it may go, and taking away its rows. The recorder takes away all else but that it is gone."""

from collections.abc import Iterable

from flash import chaos
from flash.bus import Bus
from flash.contracts.keys import dataset_folder, run_of_adapter
from flash.contracts.record import RecordClosed
from flash.contracts.runs import RunDeleted
from flash.contracts.spec import RunSpec
from flash.errors import NobodyAnswers, NotFound, Refused
from flash.store import Store
from services.scheduler.runs import Run


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


async def erase_rows(store: Store, event: RunDeleted, known: Iterable[RunSpec]) -> None:
    """The rows that no other run has. Again from the start by whoever takes over."""
    used = {place for other in known if other.run_id != event.run_id for place in datasets_of(other)}
    for place in sorted(set(event.datasets) - used):
        for key in [stat.key async for stat in store.list(place)]:
            await store.delete(key)
            chaos.point("row-erased")
