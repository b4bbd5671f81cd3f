"""A stack of real processes on a real nats-server, small enough for a test, that starts again what dies."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path

import pytest

from flash.bus import Bus, Shared
from flash.bus.jetstream import connect, roles
from flash.bus.memory import MemoryBus
from flash.bus.server import NatsServer
from flash.client import pin, publish_environment, submit
from flash.contracts.base import Event
from flash.contracts.groups import GroupScored
from flash.contracts.runs import RunCancelled, RunCompleted, RunFailed, RunStarted
from flash.contracts.spec import EnvironmentSpec, RunSpec, SamplingSpec, TrainSpec
from flash.contracts.steps import StepFinished
from flash.contracts.values import Example
from flash.models import folder
from flash.models.lengths import measured
from flash.models.rendering import load_tokenizer, sft_ids
from flash.store import Store, open_store
from services.learner.policy import Base
from services.learner.service import Learner
from services.learner.settings import Settings as LearnerSettings
from services.rollout.adapters import Adapters
from services.rollout.engines import Engine
from services.rollout.engines.torch import TorchEngine, load
from services.rollout.prompts import follow, render
from services.rollout.service import Player
from services.rollout.settings import Settings as RolloutSettings
from services.scheduler.service import Scheduler
from services.scheduler.settings import Settings as SchedulerSettings
from services.scorer.service import Scorer
from services.scorer.settings import Settings as ScorerSettings
from tests.hubs import hub_of

SECRET = "hush"
SORTING = Path(__file__).parent / "sorting"


class Stack:
    """What `flash up` starts, with each process in the test's hands."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        owner = {"user": "flash", "password": SECRET}
        self.nats = NatsServer(folder / "nats", more=roles.authorization(SECRET, owner))
        self.url = self.nats.url.replace("//", f"//flash:{SECRET}@")
        """Where the owner of the stack comes onto the bus."""
        self.store_url = f"file://{folder / 'store'}"
        self.bus: Bus
        self.store: Store
        self._parts: dict[str, asyncio.subprocess.Process] = {}
        self._services: dict[str, str] = {}
        self._settings: dict[str, dict[str, str]] = {}
        self._watching: dict[str, asyncio.Task[None]] = {}
        self.deaths: dict[str, int] = {}

    async def start(self, *services: str) -> None:
        await self.nats.start()
        self.store = await open_store(self.store_url)
        self.bus = await connect(self.url, self.store, name="test")
        for service in services or ("hub", "scheduler", "recorder", "scorer", "rollout", "learner"):
            await self.run(service)

    async def run(self, service: str, name: str = "", kill_at: str = "", **settings: str) -> None:
        """Start one replica; one that dies is started again, without the kill point."""
        name = name or f"{service}-1"
        self._services[name] = service
        self._settings[name] = settings
        await self._spawn(name, kill_at)
        self._watching[name] = asyncio.create_task(self._keep(name))

    async def _spawn(self, name: str, kill_at: str) -> None:
        kept = {key: value for key, value in os.environ.items() if not key.startswith("FLASH_")}
        service = self._services[name]
        url = self.nats.url.replace("//", f"//{service}:{roles.password(SECRET, service)}@")
        told = {
            "FLASH_NATS_URL": url, "FLASH_STORE_URL": self.store_url, "FLASH_REPLICA": name,
            "FLASH_HOME": str(self.folder / "home"), "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false",
        }  # fmt: skip
        told |= {"FLASH_MODEL": "tiny"} if self._services[name] in ("rollout", "learner") else {}
        told |= self._settings[name] | ({"FLASH_KILL_AT": kill_at} if kill_at else {})
        log = (self.folder / f"{name}.log").open("ab")
        self._parts[name] = await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-m", f"services.{self._services[name]}", env=kept | told, stdout=log, stderr=log,
            cwd=self.folder,
        )  # fmt: skip
        log.close()

    async def _keep(self, name: str) -> None:
        while True:
            code = await self._parts[name].wait()
            self.deaths[name] = self.deaths.get(name, 0) + (code == -signal.SIGKILL)
            await asyncio.sleep(0.2)
            await self._spawn(name, "")

    def pid(self, name: str) -> int:
        return self._parts[name].pid

    def signal(self, name: str, number: int) -> None:
        self._parts[name].send_signal(number)

    async def replace(self, name: str, kill_at: str = "", **settings: str) -> None:
        """The same replica again, with other settings, or one that will die at a named point."""
        service = self._services[name]
        await self.end(name)
        await self.run(service, name, kill_at, **settings)

    async def end(self, name: str) -> None:
        watching = self._watching.pop(name)
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        part = self._parts.pop(name)
        if part.returncode is None:
            part.kill()
        await part.wait()

    async def leave(self, name: str) -> int:
        """SIGTERM, and what the process exits with. It is not started again."""
        watching = self._watching.pop(name)
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        part = self._parts.pop(name)
        part.terminate()
        async with asyncio.timeout(30):
            return await part.wait()

    async def there(self, *names: str, within_s: float = 60.0) -> None:
        """Waits until these replicas answer."""
        async with asyncio.timeout(within_s):
            while not set(names) <= {replica.id for replica in await self.bus.replicas(wait_s=0.2)}:
                pass

    async def stop(self) -> None:
        for name in list(self._parts):
            await self.end(name)
        await self.bus.close(0)
        await self.nats.stop()

    def forbidden(self) -> list[str]:
        """What the server did not let a service do."""
        logs = (path.read_text().splitlines() for path in self.folder.glob("*.log"))
        return [line for lines in logs for line in lines if "nats.forbidden" in line]

    def logs(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()

    async def train(self, run_id: str, environment: Path = SORTING, seed: int = 7, **train: object) -> RunSpec:
        """Publish an environment and submit a GRPO run of the tiny model on it."""
        await publish_environment(self.bus, environment, environment.name)
        version = await pin(self.bus, f"local/{environment.name}")
        knobs = {
            "lora_rank": 8, "lora_alpha": 16, "learning_rate": 1e-3, "batch_size": 4, "max_length": 128,
            "save_every": 2, "steps": 6,
        } | train  # fmt: skip
        spec = RunSpec(
            org="local", run_id=run_id, algorithm="grpo", model="tiny", pool="tiny", seed=seed, split="train",
            environment=EnvironmentSpec(
                id=version.id, version=version.version, digest=version.digest, key=version.key
            ),
            sampling=SamplingSpec(group_size=4, temperature=1.0, max_tokens=16), train=TrainSpec(**knobs),  # type: ignore[arg-type]
        )  # fmt: skip
        await submit(self.bus, spec)
        return spec

    async def outcome(self, run_id: str, within_s: float = 180.0) -> Event:
        """The run's last word."""
        words = [kind.pattern(org="local", run_id=run_id) for kind in (RunCompleted, RunFailed, RunCancelled)]
        async with asyncio.timeout(within_s):
            async for told in self.bus.replay(*words):
                return told.event
        raise AssertionError("a replay never ends")

    async def steps(self, run_id: str) -> list[StepFinished]:
        found = self.bus.history(StepFinished.pattern(org="local", run_id=run_id))
        return [told.event async for told in found if isinstance(told.event, StepFinished)]

    async def step(self, run_id: str, number: int, within_s: float = 120.0) -> StepFinished:
        """Waits until a step is finished."""
        async with asyncio.timeout(within_s):
            async for told in self.bus.replay(StepFinished.pattern(org="local", run_id=run_id, step=number)):
                assert isinstance(told.event, StepFinished)
                return told.event
        raise AssertionError("a replay never ends")

    async def groups(self, run_id: str) -> list[GroupScored]:
        found = self.bus.history(GroupScored.pattern(org="local", run_id=run_id, scope="train"))
        return [told.event async for told in found if isinstance(told.event, GroupScored)]


@asynccontextmanager
async def stacked(folder: Path, *services: str) -> AsyncIterator[Stack]:
    stack = Stack(folder)
    await stack.start(*services)
    try:
        yield stack
        assert stack.forbidden() == []
    finally:
        await stack.stop()


@pytest.fixture
def stacks() -> Callable[..., AbstractAsyncContextManager[Stack]]:
    """A stack of some services only."""
    return stacked


@pytest.fixture
async def stack(tmp_path: Path) -> AsyncIterator[Stack]:
    async with stacked(tmp_path) as running:
        yield running


@asynccontextmanager
async def running_in_process(
    home: Path, wrap: Callable[[Shared], Shared] = lambda it: it, policy: Callable[[Engine], Engine] = lambda it: it
) -> AsyncIterator[MemoryBus]:
    """All services in this process, on a bus of their own; `wrap` changes how they hear, `policy` what is sampled."""
    bus, place = MemoryBus(), folder("tiny", home)
    tokenizer = load_tokenizer(place)
    engine = policy(TorchEngine(partial(load, place, device="cpu")))
    await engine.start()
    scheduler = Scheduler(bus, bus.store, SchedulerSettings(), now=lambda: 1.0)
    scorer = Scorer(bus, bus.store, ScorerSettings(home=home, replica="scorer-1"))
    player = Player(
        bus, bus.store, engine, partial(render, tokenizer), Adapters(bus.store, home / "adapters", 1 << 30),
        RolloutSettings(home=home), "tiny", clock=lambda: 0.0, follow=partial(follow, tokenizer),
        measure=partial(measured, tokenizer),
    )  # fmt: skip
    base = await asyncio.to_thread(Base.load, place, "tiny", "cpu")

    def gold(example: Example, thinking: bool) -> tuple[list[int], list[int]]:
        return sft_ids(tokenizer, example.messages, example.completion or [], thinking=thinking)

    learner = Learner(bus, bus.store, base, gold, LearnerSettings(home=home), "tiny")
    await hub_of(bus)
    await bus.answer("scheduler", scheduler.answers())
    await bus.answer("scorer", scorer.answers(), replica=scorer.replica)
    for service in (scorer, player, learner):
        await bus.listen(*(wrap(s) if isinstance(s, Shared) else s for s in service.subscriptions()))
    watching = asyncio.create_task(scheduler.watch())
    try:
        yield bus
    finally:
        watching.cancel()
        await bus.close(1.0)
        await scorer.close()
        await engine.close()


@pytest.fixture
def running() -> Callable[..., AbstractAsyncContextManager[MemoryBus]]:
    return running_in_process


@pytest.fixture
def replayed() -> Callable[[Stack, str], Awaitable[str]]:
    """Trains again, undisturbed, from the groups a run recorded; gives the digest of the adapter that comes out."""

    async def replay(stack: Stack, run_id: str) -> str:
        bus = MemoryBus(stack.store)
        await bus.publish(*await stack.groups(run_id))
        started = await stack.bus.last(RunStarted.pattern(org="local", run_id=run_id))
        assert started is not None
        base = await asyncio.to_thread(Base.load, folder("tiny", stack.folder), "tiny")
        learner = Learner(bus, stack.store, base, lambda example, thinking: ([], []), LearnerSettings(), pool="tiny")
        said = [event async for event in learner.on_run_started(started.event)]
        return next(event.policy.digest for event in reversed(said) if isinstance(event, StepFinished))

    return replay
