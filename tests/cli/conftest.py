"""A stack in this process: the hub is real, everybody else says what the test wants."""

from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs

from flash.bus.memory import MemoryBus
from flash.client import RunView, folded
from flash.contracts.base import Done, FilePart
from flash.contracts.hosting import CheckReport, EnvironmentCheck
from flash.contracts.preparing import DatasetMeasure, DatasetPrepare, PreparedRows, RowLengths
from flash.contracts.record import AdapterFetch
from flash.contracts.requests import (
    EventsFind,
    EventsPage,
    Generate,
    GeneratedText,
    RecordedEvent,
    RunCancel,
    RunDelete,
    RunGet,
    RunList,
    RunListing,
    RunResume,
    RunState,
    RunSubmit,
)
from flash.contracts.spec import RunSpec
from flash.contracts.usage import UsageRow, UsageSum, UsageSummed, Used
from flash.contracts.values import Fault, Message
from flash.records import MemoryRecords, Records
from flash.store.memory import MemoryStore
from services.hub.service import Hub
from services.hub.settings import Settings

POOLS = ("tiny", "smollm2-135m")


class Kept(MemoryBus):
    """A bus whose records outlive it."""

    def __init__(self, store: MemoryStore, kept: dict[str, MemoryRecords]) -> None:
        super().__init__(store)
        self._kept = kept

    def records(self, bucket: str) -> Records:
        return self._kept.setdefault(bucket, MemoryRecords())


@dataclass
class FakeStack:
    """What outlives a command: the records, the store, and what was said."""

    script: Callable[[RunSpec], list[tuple[str, dict[str, Any]]]] = lambda spec: []
    """What happens to a run once it is submitted."""
    check: CheckReport = field(default_factory=lambda: CheckReport(rows={"train": 3, "eval": 2}))
    prepared: PreparedRows = field(default_factory=lambda: PreparedRows(rows=3, digest="a1"))
    steps_taken: int = 0
    """As `runs` tells it of every run."""
    answer: str = "four"
    clock: float = 6.0
    """What the hub last took for the time; it moves on as it is read."""
    computes: dict[str, str] = field(default_factory=dict)
    """What replicas of pools say of their device."""
    warming: tuple[str, ...] = ()
    """Pools of which a rollout is on its way."""
    records: dict[str, MemoryRecords] = field(default_factory=dict)
    store: MemoryStore = field(default_factory=MemoryStore)
    events: list[RecordedEvent] = field(default_factory=list)
    adapters: dict[str, dict[str, bytes]] = field(default_factory=dict)
    """The files of each, by digest."""
    specs: list[RunSpec] = field(default_factory=list)
    sealed: list[dict[str, bytes]] = field(default_factory=list)
    counted: list[UsageSum] = field(default_factory=list)
    checks: list[EnvironmentCheck] = field(default_factory=list)
    heard: list[list[Message]] = field(default_factory=list)

    async def connect(
        self, local: object = None, environment: object = None, *, token: str = "", name: str = ""
    ) -> MemoryBus:
        """A new connection, as every command makes one."""
        bus = Kept(self.store, self.records)
        hub = Hub(bus, self.store, Settings(), now=self._now)
        await bus.answer("hub", hub.answers())
        await bus.answer("scorer", {EnvironmentCheck: self._on_check, DatasetPrepare: self._on_prepare})
        scheduler = {
            RunSubmit: self._on_submit, RunList: self._on_list, RunCancel: self._on_cancel, RunGet: self._on_get,
            RunResume: self._on_resume, RunDelete: self._on_delete,
        }  # fmt: skip
        await bus.answer("scheduler", scheduler)
        await bus.answer(
            "recorder", {EventsFind: self._on_find, AdapterFetch: self._on_fetch, UsageSum: self._on_usage}
        )
        for pool in POOLS:
            await bus.answer(
                "rollout", {Generate: self._on_generate, DatasetMeasure: self._on_measure}, pool=pool, **self.computes
            )
            await bus.answer("learner", {}, pool=pool, **self.computes)
        for pool in self.warming:
            await bus.announce("rollout", pool=pool)
        return bus

    def _now(self) -> float:
        self.clock += 1.0
        return self.clock

    def say(self, run_id: str, name: str, **body: Any) -> None:
        sequence = len(self.events) + 1
        self.events.append(
            RecordedEvent(
                sequence=sequence,
                time=1000.0 + sequence,
                subject="",
                caused_by="",
                event=f"{name}.v1",
                body={"org": "local", "run_id": run_id, **body},
            )
        )

    async def _on_check(self, request: EnvironmentCheck) -> CheckReport:
        self.checks.append(request)
        return self.check

    async def _on_prepare(self, request: DatasetPrepare) -> PreparedRows:
        return self.prepared

    async def _on_measure(self, request: DatasetMeasure) -> RowLengths:
        return RowLengths(tokens=[20] * (request.rows - 1) + [1000])

    async def _on_submit(self, request: RunSubmit) -> RunState:
        self.specs.append(request.spec)
        self.sealed.append(request.sealed)
        run_id = request.spec.run_id
        self.say(run_id, "run.submitted", spec=msgspec.to_builtins(request.spec), submitted_at=1000.0)
        for name, body in self.script(request.spec):
            self.say(run_id, name, **body)
        return self._state(request.spec)

    async def _on_list(self, request: RunList) -> RunListing:
        states = [self._state(spec) for spec in reversed(self.specs)]
        found = [state for state in states if not request.states or state.state in request.states]
        return RunListing(runs=found[request.offset :][: request.limit], total=len(found))

    async def _on_get(self, request: RunGet) -> RunState:
        return next(self._state(spec) for spec in self.specs if spec.run_id == request.run_id)

    async def _on_resume(self, request: RunResume) -> RunState:
        self.say(request.run_id, "run.resumed", attempt=request.attempt, resumed_at=2000.0)
        return await self._on_get(RunGet(org=request.org, run_id=request.run_id))

    async def _on_delete(self, request: RunDelete) -> Done:
        self.say(request.run_id, "run.deleted")
        return Done()

    async def _on_cancel(self, request: RunCancel) -> RunState:
        self.say(request.run_id, "run.cancelled")
        return next(self._state(spec) for spec in self.specs if spec.run_id == request.run_id)

    async def _on_find(self, request: EventsFind) -> EventsPage:
        nouns = request.nouns or ["run", "dataset", "step", "training"]
        found = [
            event
            for event in self.events
            if event.sequence > request.after
            and event.body["run_id"] == request.run_id
            and event.event.split(".")[0] in nouns
            and request.step in (None, event.body.get("step"))
        ]
        return EventsPage(events=found, upto=found[-1].sequence if found else request.after, more=False)

    async def _on_fetch(self, request: AdapterFetch) -> AsyncIterator[FilePart]:
        file = self.adapters[request.digest][request.file]
        if data := file[request.start :][:1_000_000]:
            yield FilePart(data=data)

    async def _on_usage(self, request: UsageSum) -> UsageSummed:
        self.counted.append(request)
        rows = [UsageRow(name=f"2026-11-2{n}", used=Used(runs=n, sampled_tokens=1000 * n)) for n in (2, 1)]
        page = rows[request.offset :][:1]
        return UsageSummed(rows=page, count=2, total=Used(runs=3, sampled_tokens=3000))

    async def _on_generate(self, request: Generate) -> AsyncIterator[GeneratedText]:
        self.heard.append(request.messages)
        for piece in self.answer:
            yield GeneratedText(text=piece)
        yield GeneratedText(text="", finish_reason="stop", completion_tokens=len(self.answer))

    def _state(self, spec: RunSpec) -> RunState:
        seen = folded(RunView(spec.run_id), (e for e in self.events if e.body["run_id"] == spec.run_id))
        return RunState(
            run_id=spec.run_id,
            state=seen.state,
            attempt=seen.attempt,
            ended_at=seen.ended_at,
            waiting_for="" if seen.is_over else "its turn: position 2 in the queue of local",
            algorithm=spec.algorithm,
            model=spec.model,
            environment=f"{spec.environment.id}@{spec.environment.version}",
            submitted_at=1000.0,
            step=seen.step + self.steps_taken,
            steps=seen.steps,
        )


def learns(spec: RunSpec) -> list[tuple[str, dict[str, Any]]]:
    """A run of two steps that ends well."""
    policy = {"version": 2, "key": "k", "digest": "d"}
    step = {"rollouts": 8, "faults": 0, "fault_samples": []}
    return [
        ("run.planned", {"rows": 3, "steps": 2, "prompts_per_step": 3}),
        ("run.started", {"pool": "tiny", "attempt": 1}),
        ("step.claimed", {"attempt": 1, "learner": "l"}),
        ("step.finished", {"step": 1, "metrics": {"reward": 0.25, "kl": 0.0}, **step}),
        ("step.finished", {"step": 2, "metrics": {"reward": 0.75, "kl": 0.01}, **step}),
        ("step.saved", {"step": 2, "policy": policy, "final": True}),
        ("run.completed", {"metrics": {}}),
    ]


def fails(spec: RunSpec) -> list[tuple[str, dict[str, Any]]]:
    """A run whose environment raises."""
    fault = {"kind": "raised", "message": "ZeroDivisionError: division by zero", "traceback": "environment.py, line 7"}
    return [("run.failed", {"reason": "too many faults", "fault": fault})]


def evaluates(spec: RunSpec) -> list[tuple[str, dict[str, Any]]]:
    """An evaluation of two examples."""
    summary = {
        "reward": 0.725, "reward_std": 0.15, "rollouts": 6, "faults": 0, "success": 0.5, "truncated": 0.25,
        "completion_tokens": 12.0, "metrics": {"exact": {"mean": 0.5, "std": 0.5}},
    }  # fmt: skip
    rollouts = [{"text": "1 2", "finish_reason": "stop", "fault": None}] * 3
    verdicts = [{"reward": 1.0, "success": True, "metrics": [], "fault": None}] * 2 + [
        {"reward": 0.0, "success": False}
    ]
    groups = [
        {"scope": "eval", "example": {"index": n, "id": f"example_{n:06d}"}, "rollouts": rollouts, "verdicts": verdicts}
        for n in range(2)
    ]
    return [
        ("run.planned", {"rows": 2, "steps": 0, "prompts_per_step": 2}),
        *(("group.scored", group) for group in groups),
        ("run.completed", {"metrics": summary}),
    ]


SCRIPTS = {"learns": learns, "fails": fails, "evaluates": evaluates}


@pytest.fixture
def fake_stack(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeStack]:
    found = FakeStack()
    monkeypatch.setattr("cli.session.connect", found.connect)
    with capture_logs():  # the hub's lines are not the command's
        yield found


@pytest.fixture
def scripts() -> dict[str, Callable[[RunSpec], list[tuple[str, dict[str, Any]]]]]:
    return SCRIPTS


@pytest.fixture
def broken() -> CheckReport:
    """What a scorer says of an environment that does not load."""
    message = "NameError: name 'x' is not defined"
    return CheckReport(fault=Fault(kind="load-failed", message=message, traceback="environment.py, line 3"))


@pytest.fixture
def project(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """An empty folder that the command is typed in, with a home beside it."""
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("FLASH_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("FLASH_URL", raising=False)
    return folder
