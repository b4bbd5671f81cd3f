"""Following a run: every fact about it, in order, as it is told."""

import asyncio
from collections.abc import AsyncIterator, Sequence

from flash.bus import Bus
from flash.client.asking import Say, silence
from flash.contracts.requests import EventsFind, EventsPage, RecordedEvent
from flash.contracts.runs import RunCancelled, RunCompleted, RunFailed
from flash.errors import BusError

LAST_WORDS = frozenset({RunCompleted.name, RunFailed.name, RunCancelled.name})


def is_terminal(event: RecordedEvent) -> bool:
    """This is the last that is said about a run's state."""
    return event.event in LAST_WORDS


async def follow(
    bus: Bus,
    run_id: str,
    *,
    after: int = 0,
    nouns: Sequence[str] = (),
    wait_s: float = 10.0,
    timeout_s: float = 10.0,
    patience_s: float = 300.0,
    pause_s: float = 1.0,
    say: Say = silence,
) -> AsyncIterator[RecordedEvent]:
    """What is said about a run after a place in the stream, as it is said; ends with the run's last word.

    A broken connection, or a recorder that is away, is waited out for `patience_s`; nothing is told twice or left out.
    """
    clock = asyncio.get_running_loop().time
    broken_since: float | None = None
    while True:
        request = EventsFind(org=bus.org, run_id=run_id, after=after, nouns=list(nouns), wait_s=wait_s)
        try:
            page: EventsPage = await bus.ask(request, wait_s + timeout_s)
        except BusError as error:
            if broken_since is None:
                broken_since = clock()
                say(f"lost sight of {run_id} ({error}); trying again for {patience_s:g} s")
            if clock() - broken_since >= patience_s:
                raise
            await asyncio.sleep(pause_s)
            continue
        broken_since = None
        for event in page.events:
            yield event
            if is_terminal(event):
                return
        after = page.upto


async def told_so_far(
    bus: Bus, run_id: str, *, after: int = 0, nouns: Sequence[str] = (), timeout_s: float = 10.0
) -> list[RecordedEvent]:
    """What has been said about a run up to now."""
    events: list[RecordedEvent] = []
    while True:
        request = EventsFind(org=bus.org, run_id=run_id, after=after, nouns=list(nouns))
        page: EventsPage = await bus.ask(request, timeout_s)
        events += page.events
        if not page.more:
            return events
        after = page.upto
