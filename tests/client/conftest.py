"""A recorder that is told what to say."""

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import pytest

from flash.bus.memory import MemoryBus
from flash.contracts.requests import EventsFind, EventsPage, RecordedEvent

RUN = "flash-1700000000-0000abcd"


@dataclass
class FakeRecorder:
    """Answers `events.find` from a list, two facts a page; `say` adds to it."""

    events: list[RecordedEvent] = field(default_factory=list)
    asked: list[EventsFind] = field(default_factory=list)
    page_events: int = 2
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    def say(self, name: str, **body: Any) -> None:
        """A fact about RUN, ten places after the last one; `step_finished` is `step.finished.v1`."""
        sequence = 10 * (len(self.events) + 1)
        self.events.append(
            RecordedEvent(
                sequence=sequence,
                time=1000.0 + sequence,
                subject="",
                caused_by="",
                event=name.replace("_", ".", 1) + ".v1",
                body={"org": "local", "run_id": RUN, **body},
            )
        )
        self._news.set()

    async def on_events_find(self, request: EventsFind) -> EventsPage:
        self.asked.append(request)
        if not self._wanted(request) and request.wait_s:
            self._news.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), request.wait_s)
        found = self._wanted(request)
        page = found[: self.page_events]
        return EventsPage(events=page, upto=page[-1].sequence if page else request.after, more=len(found) > len(page))

    def _wanted(self, request: EventsFind) -> list[RecordedEvent]:
        nouns = request.nouns or ["run", "dataset", "step", "training"]
        return [
            e for e in self.events
            if e.sequence > request.after and e.event.split(".")[0] in nouns and e.body["run_id"] == request.run_id
        ]  # fmt: skip

    async def answering(self, bus: MemoryBus) -> None:
        await bus.answer("recorder", {EventsFind: self.on_events_find})


@pytest.fixture
def bus() -> MemoryBus:
    return MemoryBus()


@pytest.fixture
def silent_recorder() -> FakeRecorder:
    """One that nobody can ask yet: see `answering`."""
    return FakeRecorder()


@pytest.fixture
async def recorder(bus: MemoryBus, silent_recorder: FakeRecorder) -> FakeRecorder:
    await silent_recorder.answering(bus)
    return silent_recorder
