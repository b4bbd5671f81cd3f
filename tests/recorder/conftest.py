"""A run as its facts tell it, small enough to be looked at."""

from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest

from flash.bus.memory import MemoryBus
from flash.contracts.base import Event
from flash.contracts.groups import GroupRequested, GroupScored
from flash.contracts.keys import spec_key
from flash.contracts.packing import pack_floats, pack_ids
from flash.contracts.runs import RunCompleted, RunStarted
from flash.contracts.steps import StepFinished, TrainedGroup
from flash.contracts.values import Example, Fault, Metric, PolicyRef, Rollout, Verdict
from flash.store import Store
from services.recorder.service import Recorder
from services.recorder.settings import Settings
from tests.recorder.fake_wandb import FakeWandb, fake_wandb

ORG = "local"


@dataclass
class Facts:
    """What is said of one run."""

    run_id: str = "r1"
    group_size: int = 2

    def requested(self, step: int, group: int) -> GroupRequested:
        example = Example(index=group, id=f"row-{group}", input="x")
        return GroupRequested(
            org=ORG, run_id=self.run_id, pool="tiny", attempt=1, scope="train", step=step, group=group,
            example=example, policy=PolicyRef(),
        )  # fmt: skip

    def scored(self, step: int, group: int, scope: str = "train", text: str = "", padding: int = 0) -> GroupScored:
        shown = [{"role": "user", "content": f"{group} + {group} = ? " + "." * padding}]
        rollouts = [
            Rollout(
                token_ids=pack_ids([step, group, index]), logprobs=pack_floats([-0.5, -0.25, 0.0]),
                mask=bytes([1, 1, 0]), text=text or f"<think>{step}</think>{2 * group + index}",
            )
            for index in range(self.group_size)
        ]  # fmt: skip
        verdicts = [
            Verdict(reward=float(step + index), metrics=[Metric(name="exact", score=1.0)])
            for index in range(self.group_size - 1)
        ]
        fault = Fault(kind="raised", message="ZeroDivisionError: division by zero", traceback="environment.py, line 3")
        return GroupScored(
            org=ORG, run_id=self.run_id, scope=scope, step=step, group=group,  # type: ignore[arg-type]
            example=Example(index=group, id=f"row-{group}", input="x", messages=shown),
            policy=PolicyRef(version=step - 1, digest="d"), prompt_ids=pack_ids([7, 8]), rollouts=rollouts,
            verdicts=[*verdicts, Verdict(fault=fault)], environment_version="abc123",
        )  # fmt: skip

    def finished(self, step: int, groups: int) -> StepFinished:
        advantages = [step + 0.5] * (self.group_size - 1) + [0.0]
        trained = [TrainedGroup(group=group, advantages=advantages) for group in range(groups)] if step else []
        return StepFinished(
            org=ORG, run_id=self.run_id, attempt=1, step=step, policy=PolicyRef(version=step), groups=trained,
            metrics={"reward": 0.1 * step, "tokens": 10.0 * step},
        )  # fmt: skip

    def whole(self, steps: int = 3, groups: int = 2) -> list[Event]:
        """A training run from start to end; the groups of a step are scored while the one before is computed."""
        said: list[Event] = [
            RunStarted(
                org=ORG, run_id=self.run_id, pool="tiny", attempt=1, steps=steps, prompts_per_step=groups, rows=groups
            ),
            self.finished(0, 0),
        ]
        for step in range(1, steps + 1):
            said += [self.requested(step, group) for group in range(groups)]
            said += [self.scored(step, group) for group in reversed(range(groups))]
            said += [self.finished(step - 1, groups)] if step > 1 else []
        return [*said, self.finished(steps, groups), RunCompleted(org=ORG, run_id=self.run_id)]


@dataclass
class Recording:
    """Recorders over one bus and store."""

    home: Path
    bus: MemoryBus = field(default_factory=MemoryBus)
    recorders: list[Recorder] = field(default_factory=list)
    now: float = 0.0

    @property
    def store(self) -> Store:
        return self.bus.store

    def recorder(self, name: str = "1", **settings: Any) -> Recorder:
        told = Settings(home=self.home / name, **{"segment_s": 3600.0, "settle_s": 0.0, **settings})
        made = Recorder(self.bus, self.store, told, now=lambda: self.now)
        self.recorders.append(made)
        return made

    async def own(self, run_id: str = "r1", org: str = ORG) -> None:
        """The run was submitted by this organisation."""
        await self.store.put(spec_key(run_id), msgspec.json.encode({"org": org}))


@pytest.fixture
def facts() -> Callable[..., Facts]:
    return Facts


@pytest.fixture
async def recording(tmp_path: Path) -> AsyncIterator[Recording]:
    found = Recording(tmp_path)
    yield found
    for recorder in found.recorders:
        await recorder.close()


@pytest.fixture
def wandb() -> Iterator[FakeWandb]:
    with fake_wandb() as fake:
        yield fake
