"""Following a run: every fact about it, in order, as it is told."""

import asyncio
from collections.abc import AsyncIterator, Sequence

from flash.bus import Bus
from flash.client.asking import Say, silence
from flash.contracts.requests import EventsFind, EventsPage, RecordedEvent
from flash.contracts.runs import LAST_WORDS, RunDeleted, RunResumed
from flash.errors import BusError, NotFound

_LAST_WORDS = frozenset(kind.name for kind in LAST_WORDS)


def is_terminal(event: RecordedEvent) -> bool:
    """With this an attempt is over, and the run unless it is resumed."""
    return event.event in _LAST_WORDS


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
    """What is said about a run after a place in the stream, as it is said; ends with the run's last word, unless it
    was resumed since.

    A broken connection, or a recorder that is away, is waited out for `patience_s`; nothing is told twice or left out.
    """
    clock = asyncio.get_running_loop().time
    broken_since: float | None = None
    is_over = False
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
            is_over = is_over and event.event != RunResumed.name
            if not is_over:
                yield event
                is_over = is_terminal(event)
        if is_over and not page.more:
            return
        after = page.upto


async def told_so_far(
    bus: Bus,
    run_id: str,
    *,
    after: int = 0,
    nouns: Sequence[str] = (),
    step: int | None = None,
    timeout_s: float = 10.0,
) -> list[RecordedEvent]:
    """What has been said about a run, or about one of its steps, up to now. Raises NotFound where it was deleted."""
    events: list[RecordedEvent] = []
    while True:
        request = EventsFind(org=bus.org, run_id=run_id, after=after, nouns=list(nouns), step=step)
        page: EventsPage = await bus.ask(request, timeout_s)
        events += page.events
        if any(event.event == RunDeleted.name for event in page.events):
            raise NotFound(f"the run {run_id} was deleted: `flash runs` lists those that are there")
        if not page.more:
            return events
        after = page.upto
