"""Which runs used which version, and which checkpoints came of it: a fold of what was said about runs."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, replace

from flash.bus import Bus
from flash.contracts.base import Event, RunEvent
from flash.contracts.environments import EnvironmentUse
from flash.contracts.runs import RunCancelled, RunCompleted, RunDeleted, RunFailed, RunResumed, RunSubmitted
from flash.contracts.steps import StepSaved

LIVE = "live"
HEARD: tuple[type[RunEvent], ...] = (
    RunSubmitted, RunCompleted, RunFailed, RunCancelled, RunResumed, RunDeleted, StepSaved,
)  # fmt: skip


@dataclass(frozen=True)
class Use:
    """One run, and the version that it pins."""

    org: str
    run_id: str
    environment: str
    """`org/name@version`."""
    submitted_at: float
    state: str = LIVE
    checkpoints: tuple[int, ...] = ()

    def told(self) -> EnvironmentUse:
        return EnvironmentUse(
            run_id=self.run_id, state=self.state, submitted_at=self.submitted_at, checkpoints=list(self.checkpoints)
        )


class Uses:
    """Read from the stream when somebody asks, from where the last one who asked had come to."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._found: dict[str, Use] = {}
        self._upto = 0
        self._reading = asyncio.Lock()

    async def of(self, environments: Iterable[str]) -> list[Use]:
        """The runs that use one of these versions, newest first, up to this moment."""
        wanted = set(environments)
        async with self._reading:
            async for told in self._bus.history(*(kind.pattern() for kind in HEARD), after=self._upto):
                self._fold(told.event)
                self._upto = told.sequence
        found = [use for use in self._found.values() if use.environment in wanted]
        return sorted(found, key=lambda use: -use.submitted_at)

    def _fold(self, event: Event) -> None:
        assert isinstance(event, RunEvent)
        if isinstance(event, RunSubmitted):
            self._found.setdefault(event.run_id, submitted(event))
        elif isinstance(event, RunDeleted):
            self._found.pop(event.run_id, None)
        elif use := self._found.get(event.run_id):
            self._found[event.run_id] = after(event, use)


def submitted(event: RunSubmitted) -> Use:
    environment = event.spec.environment
    version = f"{environment.id}@{environment.version}"
    return Use(event.org, event.run_id, environment=version, submitted_at=event.submitted_at)


def after(event: RunEvent, use: Use) -> Use:
    """The use once this has been said about its run."""
    match event:
        case RunCompleted():
            return replace(use, state="done")
        case RunFailed():
            return replace(use, state="failed")
        case RunCancelled():
            return replace(use, state="cancelled")
        case RunResumed():
            return replace(use, state=LIVE)
        case StepSaved():
            return replace(use, checkpoints=tuple(sorted({*use.checkpoints, event.step})))
        case _:
            return use
