"""Secrets at the scorer: opened there, given to the run that declared them, and told by nobody."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs

from flash.artifacts import pack
from flash.bus.memory import MemoryBus
from flash.client import sealed_for_archive, sealed_for_run, submit
from flash.contracts.groups import GroupGenerated, GroupScored
from flash.contracts.hosting import CheckReport, EnvironmentCheck, ScorerKey
from flash.contracts.keys import dataset_key, sealed_key, spec_key
from flash.contracts.runs import DatasetFailed, DatasetPrepared, DatasetRequested
from flash.contracts.spec import EnvironmentSpec, RunSpec
from flash.contracts.values import Example, PolicyRef, Rollout
from flash.errors import CannotOpen, Refused
from services.scheduler.service import Scheduler
from services.scheduler.settings import Settings as SchedulerSettings
from services.scorer.service import Scorer
from services.scorer.settings import Settings
from tests.hubs import hub_of

CANARY = "sk-4711-canary"
TELLING = """
import os
from envsdk import EnvironmentSingleTurn, RewardMetric, RewardResult

KEY = os.environ.get("JUDGE_KEY")

class Telling(EnvironmentSingleTurn):
    def build_prompt_messages(self, example, prompt_text):
        print("rendering with", KEY)
        return [{"role": "user", "content": f"{example.input} {KEY}"}]
    def score_response(self, example, text):
        names = sorted(name for name in os.environ if name.endswith("_KEY"))
        print("scoring with", KEY, flush=True)
        if text == "raise":
            raise ValueError("refused: " + KEY)
        metrics = (RewardMetric(name="has " + KEY, reason=KEY),) if KEY else ()
        return RewardResult(len(names), metadata={"names": names, "key": [KEY]}, metrics=metrics, error=KEY)

def load_environment():
    return Telling()
"""


class World:
    """A scorer and a scheduler on one bus, and an environment that tells all it knows."""

    def __init__(self, folder: Path) -> None:
        self.bus = MemoryBus(retry_s=0.01)
        self.settings = Settings(home=folder / "home", replica="scorer-1", load_timeout_s=20.0)
        self.scorer = Scorer(self.bus, self.bus.store, self.settings)
        self.scheduler = Scheduler(self.bus, self.bus.store, SchedulerSettings(), now=lambda: 1.0)
        place = folder / "telling"
        place.mkdir()
        (place / "environment.py").write_text(TELLING)
        (place / "train.jsonl").write_text('{"input": "a"}\n')
        self.packed = pack(place)

    async def submit(self, run_id: str, values: dict[str, str], *, declared: list[str], org: str = "local") -> RunSpec:
        key = f"environments/local/telling/{self.packed.digest[:12]}.tar.zst"
        await self.bus.store.put(key, self.packed.data)
        spec = RunSpec(
            org=org, run_id=run_id, algorithm="grpo", model="tiny", pool="tiny", seed=1, split="train",
            environment=EnvironmentSpec(
                id="local/telling", version="1", digest=self.packed.digest, key=key, secrets=declared
            ),
        )  # fmt: skip
        await submit(self.bus, spec, await sealed_for_run(self.bus, spec, values))
        return spec

    async def scored(self, run_id: str, *texts: str) -> GroupScored:
        rollouts = [Rollout(text=text, token_ids=b"\2\0\0\0", logprobs=b"\0\0\0\0", mask=b"\1") for text in texts]
        event = GroupGenerated(
            org="local", run_id=run_id, scope="train", step=1, group=0, example=Example(index=0, id="x", input="a"),
            policy=PolicyRef(), prompt_ids=b"\1\0\0\0", rollouts=rollouts,
        )  # fmt: skip
        [scored] = await self.scorer.on_group_generated(event)
        assert isinstance(scored, GroupScored)
        return scored

    async def stored(self) -> bytes:
        """Every byte of the store and of what was said."""
        objects = [await self.bus.store.get(stat.key) async for stat in self.bus.store.list("")]
        facts = [told.event.encode() async for told in self.bus.history("flash.>")]
        return b"\n".join([*objects, *facts])


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path)
    await made.bus.answer("scorer", made.scorer.answers(), replica="scorer-1")
    await hub_of(made.bus)
    await made.bus.answer("scheduler", made.scheduler.answers())
    watching = asyncio.create_task(made.scheduler.watch())
    yield made
    watching.cancel()
    await made.bus.close(0.1)
    await made.scorer.close()


async def test_a_run_has_what_it_declared_and_the_run_beside_it_has_not(world: World) -> None:
    await world.submit("r1", {"JUDGE_KEY": CANARY, "OTHER_KEY": "not declared"}, declared=["JUDGE_KEY"])
    await world.submit("r2", {}, declared=[])

    with_key, without = await world.scored("r1", "x"), await world.scored("r2", "x")

    assert with_key.verdicts[0].metadata == {"names": ["JUDGE_KEY"], "key": ["*" * 14]}
    assert without.verdicts[0].metadata == {"names": [], "key": [None]}


async def test_what_is_printed_raised_and_returned_is_masked_and_stored_nowhere(world: World) -> None:
    with capture_logs() as logs:
        await world.submit("r1", {"JUDGE_KEY": CANARY}, declared=["JUDGE_KEY"])
        [prepared] = await world.scorer.on_dataset_requested(DatasetRequested(org="local", run_id="r1", chunk=0))
        scored = await world.scored("r1", "raise", "tell")
    await world.bus.publish(prepared, scored)

    assert isinstance(prepared, DatasetPrepared)
    raised, told = scored.verdicts
    assert raised.fault is not None
    assert raised.fault.message == f"ValueError: refused: {'*' * 14}"
    assert (told.error, told.metrics[0].name) == ("*" * 14, f"has {'*' * 14}")
    assert "scoring with ****" in raised.output + told.output
    everything = await world.stored() + repr(logs).encode()
    assert b"refused: ****" in everything
    assert b"canary" not in everything


async def test_what_is_sealed_is_kept_from_every_fact_and_from_the_spec(world: World) -> None:
    spec = await world.submit("r1", {"JUDGE_KEY": CANARY}, declared=["JUDGE_KEY"])

    sealed = await world.bus.store.get(sealed_key("r1", "scorer"))
    kept = await world.bus.store.get(spec_key("r1"))
    assert msgspec.json.decode(kept, type=RunSpec).environment == spec.environment
    facts = [told.event.encode() async for told in world.bus.history("flash.>")]
    assert facts
    assert not [fact for fact in [*facts, kept] if sealed in fact]


async def test_a_run_that_declares_what_does_not_come_with_it_is_refused(world: World) -> None:
    with pytest.raises(Refused, match="the run declares secrets, but none came with it"):
        await world.submit("r1", {}, declared=["JUDGE_KEY"])

    assert await world.bus.store.stat(spec_key("r1")) is None


async def failed(world: World, run_id: str) -> str:
    [said] = await world.scorer.on_dataset_requested(DatasetRequested(org="local", run_id=run_id, chunk=0))
    assert isinstance(said, DatasetFailed)
    return said.fault.message


async def test_what_was_sealed_for_another_run_fails_the_run_where_it_is_planned(world: World) -> None:
    await world.submit("r1", {"JUDGE_KEY": CANARY}, declared=["JUDGE_KEY"])
    stolen = await world.bus.store.get(sealed_key("r1", "scorer"))
    await world.submit("r2", {"JUDGE_KEY": "my own"}, declared=["JUDGE_KEY"])
    await world.bus.store.put(sealed_key("r2", "scorer"), stolen)
    await world.submit("r3", {"OTHER_KEY": "x"}, declared=["JUDGE_KEY"])

    assert await failed(world, "r2") == "the secrets given for run local/r2 were sealed for something else"
    assert await failed(world, "r3") == "run r3 was not given its secrets JUDGE_KEY: submit it again"


async def test_a_scorer_with_another_key_says_so_and_one_that_shares_it_goes_on(world: World, tmp_path: Path) -> None:
    await world.submit("r1", {"JUDGE_KEY": CANARY}, declared=["JUDGE_KEY"])
    store = world.bus.store
    stranger = Scorer(world.bus, store, Settings(home=tmp_path / "elsewhere", replica="scorer-2"))
    key_file = world.settings.home / "keys" / "scorer"
    replica = Scorer(world.bus, store, Settings(home=tmp_path / "third", replica="scorer-3", key_file=key_file))

    try:
        world.scorer = stranger
        assert "sealed to another key than this one's: all replicas of a pool share one" in await failed(world, "r1")
        with pytest.raises(CannotOpen):
            await world.scored("r1", "x")
        world.scorer = replica
        assert (await world.scored("r1", "x")).verdicts[0].reward == 1.0
    finally:
        await stranger.close()
        await replica.close()


async def test_a_check_has_the_secrets_that_were_sealed_for_its_archive(world: World) -> None:
    spec = await world.submit("r1", {}, declared=[])
    place = {"key": spec.environment.key, "digest": spec.environment.digest}
    sealed = await sealed_for_archive(world.bus, spec.environment.digest, {"JUDGE_KEY": CANARY})

    report: Any = await world.bus.ask(EnvironmentCheck(**place, sealed=sealed))

    assert report == CheckReport(rows={"train": 1})
    other = await sealed_for_archive(world.bus, "0" * 64, {"JUDGE_KEY": CANARY})
    with pytest.raises(CannotOpen, match="were sealed for something else"):
        await world.bus.ask(EnvironmentCheck(**place, sealed=other))


async def test_rows_that_a_secret_may_have_opened_are_not_shared_with_who_has_none(world: World) -> None:
    mine = await world.submit("r1", {"JUDGE_KEY": CANARY}, declared=["JUDGE_KEY"])
    plain = await world.submit("r2", {}, declared=[])
    theirs = msgspec.structs.replace(mine, org="others")

    assert len({dataset_key(spec, 0) for spec in (mine, plain, theirs)}) == 3


async def test_replicas_tell_one_key(world: World) -> None:
    first, again = await world.bus.ask(ScorerKey()), await world.bus.ask(ScorerKey())

    assert first == again
    assert len(first.public) == 32
