"""Takes away what a deleted run has left: its objects, then the facts about it. One stays, that it is gone."""

import structlog

from flash import chaos
from flash.bus import Bus, Shared
from flash.contracts.base import Event, RunEvent
from flash.contracts.catalogue import EVENTS
from flash.contracts.keys import run_prefix, spec_key
from flash.contracts.runs import RunDeleted
from flash.store import Store

log = structlog.get_logger()


class Eraser:
    """Remembers nothing: whoever takes over begins anew, and erases what is left."""

    def __init__(self, bus: Bus, store: Store) -> None:
        self._bus = bus
        self._store = store

    def subscriptions(self) -> tuple[Shared, ...]:
        return (Shared("recorder-deletions", RunDeleted, self.on_run_deleted, max_deliveries=0),)

    async def on_run_deleted(self, event: RunDeleted) -> list[Event]:
        # The spec goes first: without it the run is nobody's, and nothing of it is shown any more.
        await self._store.delete(spec_key(event.run_id))
        keys = [stat.key async for stat in self._store.list(run_prefix(event.run_id))]
        for key in keys:
            await self._store.delete(key)
            chaos.point("object-erased")
        chaos.point("objects-erased")
        about = {"org": event.org, "run_id": event.run_id}
        kinds = [row.event for row in EVENTS if issubclass(row.event, RunEvent) and row.event is not RunDeleted]
        if told := await self._bus.last(RunDeleted.pattern(**about)):
            await self._bus.forget(*(kind.pattern(**about) for kind in kinds), before=told.sequence)
        log.info("run.erased", run_id=event.run_id, objects=len(keys))
        return []
