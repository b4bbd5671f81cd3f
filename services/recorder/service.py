"""The recorder: answers `events.find` from the stream."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec

from flash.bus import Bus, Told
from flash.contracts.base import Request
from flash.contracts.catalogue import EVENTS, noun_pattern
from flash.contracts.requests import EventsFind, EventsPage, RecordedEvent
from flash.errors import Refused
from services.recorder.settings import Settings

NOUNS = sorted({row.event.name.split(".")[0] for row in EVENTS if "run_id" in row.event.address})
QUIET_NOUNS = [noun for noun in NOUNS if noun != "group"]
"""What is told when nothing is asked for by name: groups are many and large."""


class Recorder:
    """Reads; keeps nothing of its own."""

    def __init__(self, bus: Bus, settings: Settings) -> None:
        self._bus = bus
        self._settings = settings

    def answers(self) -> Mapping[type[Request], Callable[[Any], Awaitable[Any]]]:
        return {EventsFind: self.on_events_find}

    async def on_events_find(self, request: EventsFind) -> EventsPage:
        """A page of what was said after a position; waits for news if there is none and the asker wants to."""
        if unknown := set(request.nouns) - set(NOUNS):
            raise Refused(f"there are no facts about {sorted(unknown)}: the nouns are {', '.join(NOUNS)}")
        nouns = request.nouns or QUIET_NOUNS
        patterns = [p for noun in nouns for p in noun_pattern(noun, request.org, request.run_id)]
        page = await self._page(patterns, request.after)
        if not page.events and request.wait_s > 0 and await self._news(patterns, request):
            page = await self._page(patterns, request.after)
        return page

    async def _page(self, patterns: list[str], after: int) -> EventsPage:
        events: list[RecordedEvent] = []
        num_bytes = 0
        async for told in self._bus.history(*patterns, after=after):
            event = recorded(told)
            num_bytes += len(msgspec.msgpack.encode(event))
            if events and num_bytes > self._settings.page_bytes:
                return EventsPage(events=events, upto=events[-1].sequence, more=True)
            events.append(event)
            if len(events) == self._settings.page_events:
                return EventsPage(events=events, upto=told.sequence, more=told.pending > 0)
        return EventsPage(events=events, upto=events[-1].sequence if events else after, more=False)

    async def _news(self, patterns: list[str], request: EventsFind) -> bool:
        try:
            async with asyncio.timeout(min(request.wait_s, self._settings.max_wait_s)):
                async for _ in self._bus.replay(*patterns, after=request.after):
                    return True
        except TimeoutError:
            pass
        return False


def recorded(told: Told) -> RecordedEvent:
    """A fact as people read it: without packed arrays."""
    body = msgspec.to_builtins(told.event, builtin_types=(bytes,))
    return RecordedEvent(
        sequence=told.sequence, time=told.time, subject=told.event.subject, caused_by=told.caused_by,
        event=told.event.name, body=_readable(body),
    )  # fmt: skip


def _readable(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _readable(v) for name, v in value.items() if not isinstance(v, bytes)}
    if isinstance(value, list):
        return [_readable(v) for v in value]
    return value
