"""Two organisations on one closed stack: neither sees that there is anything of the other's."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest

from flash import client
from flash.access import Access
from flash.bus.memory import MemoryBus
from flash.client.rollouts import export_rollouts, find_rollouts
from flash.client.tokens import create_org, create_token
from flash.contracts.hosting import EnvironmentCheck
from flash.contracts.keys import environment_key
from flash.contracts.record import RolloutsExport, RolloutsFind
from flash.contracts.requests import EventsFind, RunCancel
from flash.contracts.spec import EnvironmentSpec, RunSpec, TrainSpec
from flash.errors import NotFound, Refused
from services.hub.organisations import Organisations
from services.hub.service import Hub
from services.hub.settings import Settings as HubSettings
from services.recorder.service import Recorder
from services.recorder.settings import Settings as RecorderSettings
from services.scheduler.service import Scheduler
from services.scheduler.settings import Settings as SchedulerSettings
from tests.hubs import FakeScorer, push

OPERATOR = "flash_local_operator_" + "s" * 40
RUN = "flash-1700000000-0000abcd"


class Closed:
    """Hub, scheduler and recorder that let nobody in without a token."""

    def __init__(self, home: Path) -> None:
        self._bus = MemoryBus(token=OPERATOR)
        self._home = home

    async def __aenter__(self) -> "Closed":
        bus, store = self._bus, self._bus.store
        admit = Access(bus, OPERATOR).admit
        organisations = Organisations(bus.records("organisations"), OPERATOR, now=lambda: 7.0)
        hub = Hub(bus, store, HubSettings(), now=lambda: 7.0)
        scheduler = Scheduler(bus, store, SchedulerSettings(), now=lambda: 7.0)
        self._recorder = Recorder(bus, store, RecorderSettings(home=self._home), now=lambda: 7.0)
        await bus.answer("hub", {**hub.answers(), **organisations.answers()}, admit)
        await bus.answer("scheduler", scheduler.answers(), admit)
        await bus.answer("recorder", self._recorder.answers(), admit)
        await bus.answer("scorer", {EnvironmentCheck: FakeScorer(bus).on_check}, admit)
        self._watching = asyncio.create_task(scheduler.watch())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._watching.cancel()
        with suppress(asyncio.CancelledError):
            await self._watching
        await self._recorder.close()
        await self._bus.close(0)

    def asker(self, token: str) -> MemoryBus:
        return self._bus.replica("cli:1", token)

    async def organisation(self, name: str) -> MemoryBus:
        return self.asker(await create_org(self.asker(OPERATOR), name))


@pytest.fixture
async def closed(tmp_path: Path) -> AsyncIterator[Closed]:
    async with Closed(tmp_path) as stack:
        yield stack


def spec(org: str, version: str, digest: str) -> RunSpec:
    key = environment_key(org, "sums", version)
    return RunSpec(
        org=org, run_id=RUN, algorithm="sft", model="tiny", pool="tiny", seed=1, split="train",
        environment=EnvironmentSpec(id=f"{org}/sums", version=version, digest=digest, key=key),
        train=TrainSpec(
            lora_rank=8, lora_alpha=16, learning_rate=1e-3, batch_size=2, max_length=64, save_every=5, epochs=1
        ),
    )  # fmt: skip


async def told(bus: MemoryBus) -> None:
    """Until the scheduler has heard what it said itself."""
    async with asyncio.timeout(5):
        while not (await client.runs(bus)).runs:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_a_run_of_another_organisation_is_not_found_whatever_is_asked_about_it(
    closed: Closed, tmp_path: Path
) -> None:
    acme, beta = await closed.organisation("acme"), await closed.organisation("beta")
    version = await push(acme)
    await client.submit(acme, spec("acme", version.version, version.digest))
    await told(acme)
    asked: list[Callable[[], Awaitable[object]]] = [
        lambda: client.view(beta, RUN),
        lambda: client.standing(beta, RUN),
        lambda: client.cancel(beta, RUN),
        lambda: client.resume(beta, RUN),
        lambda: client.resolve_reference(beta, RUN),
        lambda: find_rollouts(beta, RolloutsFind(org="beta", run_id=RUN)),
        lambda: export_rollouts(beta, RolloutsExport(org="beta", run_id=RUN), tmp_path / "out"),
    ]

    for ask in asked:
        with pytest.raises(NotFound, match=f"there is no run {RUN}"):
            await ask()
    assert (await client.runs(beta)).runs == []
    assert [run.run_id for run in (await client.runs(acme)).runs] == [RUN]
    assert (await client.view(acme, RUN)).run_id == RUN
    # Nor does it help to ask in another's name.
    for request in (EventsFind(org="acme", run_id=RUN), RunCancel(org="acme", run_id=RUN)):
        with pytest.raises(NotFound, match="there is no 'acme' here that a token of beta can see"):
            await beta.ask(request)


async def test_a_run_id_is_nobodys_to_take_over(closed: Closed) -> None:
    acme, beta = await closed.organisation("acme"), await closed.organisation("beta")
    version = await push(acme)
    await push(beta)
    await client.submit(acme, spec("acme", version.version, version.digest))

    with pytest.raises(Refused, match=f"the run id {RUN} is taken"):
        await client.submit(beta, spec("beta", version.version, version.digest))


async def test_an_environment_of_another_organisation_is_not_found(closed: Closed) -> None:
    acme, beta = await closed.organisation("acme"), await closed.organisation("beta")
    version = await push(acme)

    with pytest.raises(NotFound):
        await client.pin(beta, "acme/sums")
    with pytest.raises(NotFound):
        await beta.ask(EnvironmentCheck(key=version.key, digest=version.digest))
    with pytest.raises(NotFound):
        await client.submit(beta, msgspec.structs.replace(spec("acme", version.version, version.digest), org="beta"))
    assert await client.environments(beta) == []
    assert [found.id for found in await client.environments(acme)] == ["acme/sums"]


async def test_a_reader_looks_and_changes_nothing(closed: Closed) -> None:
    acme = await closed.organisation("acme")
    version = await push(acme)
    await client.submit(acme, spec("acme", version.version, version.digest))
    await told(acme)
    reader = closed.asker(await create_token(acme, "reader"))

    assert (await client.view(reader, RUN)).run_id == RUN
    assert (await client.pin(reader, "acme/sums")).version == version.version
    for change in (
        client.cancel(reader, RUN),
        client.submit(reader, spec("acme", version.version, version.digest)),
        push(reader),
    ):
        with pytest.raises(Refused, match="wants the role member, but this token of acme has reader"):
            await change
