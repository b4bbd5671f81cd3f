"""Episodes that a scorer holds: opened on a bus with real hosts, kept while somebody renews their lease."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from flash.artifacts import pack
from flash.bus.memory import MemoryBus
from flash.contracts.groups import GroupGenerated
from flash.contracts.hosting import (
    EpisodeClose,
    EpisodeRenew,
    EpisodeScore,
    EpisodesStarted,
    EpisodeStart,
    EpisodeStep,
)
from flash.contracts.keys import spec_key
from flash.contracts.spec import EnvironmentSpec, RunSpec
from flash.contracts.values import Example, PolicyRef, Rollout, Verdict
from flash.errors import BusError, NotFound
from flash.host.requirements import Installer
from services.scorer.service import Scorer
from services.scorer.settings import Settings
from tests.wheels import wheel

CHAT = """
import os, time
from envsdk import EnvironmentMultiTurn, EnvironmentStepResult, RewardResult
class Chat(EnvironmentMultiTurn):
    dataset = ["q"]
    def start_episode(self, example, prompt_text): return [{"role": "user", "content": example.input}]
    def max_episode_turns(self, example): return 3
    def step_episode(self, example, messages, text):
        self.steps = getattr(self, "steps", 0) + 1
        if text == "die": os._exit(3)
        if text == "hang": time.sleep(3600)
        return EnvironmentStepResult(done=text == "stop", messages=({"role": "user", "content": str(self.steps)},))
    def score_episode(self, example, episode): return RewardResult(score=len(episode.messages))
"""
TOGETHER = CHAT + "def load_environment(): return Chat()\n"
ALONE = CHAT + "    isolation = 'call'\ndef load_environment(): return Chat()\n"
EXAMPLE = Example(index=0, id="example_000000", input="q", record={"input": "q"}, max_turns=3)


class World:
    def __init__(self, folder: Path) -> None:
        self.folder, self.bus = folder, MemoryBus()
        self.scorers: list[Scorer] = []

    async def scorer(self, **settings: Any) -> Scorer:
        replica = f"scorer-{len(self.scorers) + 1}"
        given = {"home": self.folder / replica, "replica": replica, "score_timeout_s": 1.0} | settings
        scorer = Scorer(self.bus, self.bus.store, Settings(**given))
        await self.bus.replica(f"scorer:{replica}").answer("scorer", scorer.answers(), replica=scorer.replica)
        self.scorers.append(scorer)
        return scorer

    async def run(self, code: str = TOGETHER, *pip: str) -> None:
        root = self.folder / "env"
        root.mkdir()
        (root / "environment.py").write_text(code)
        packed = pack(root)
        await self.bus.store.put("archive", packed.data)
        environment = EnvironmentSpec(id="local/chat", version="v", digest=packed.digest, key="archive", pip=list(pip))
        spec = RunSpec(
            org="local", run_id="r1", algorithm="grpo", model="tiny", pool="tiny", seed=1, split="train",
            environment=environment, prompt_text="Be brief.",
        )  # fmt: skip
        await self.bus.store.put(spec_key("r1"), msgspec.json.encode(spec))

    async def start(self, count: int = 2) -> EpisodesStarted:
        started = await self.bus.ask(EpisodeStart(run_id="r1", example=EXAMPLE, count=count), 20)
        assert isinstance(started, EpisodesStarted)
        return started

    async def step(self, held: EpisodesStarted, index: int, turn: int, text: str) -> Any:
        where = {"replica": held.replica, "episodes": held.episodes}
        return await self.bus.ask(EpisodeStep(index=index, turn=turn, text=text, **where), 20)

    async def score(self, held: EpisodesStarted, *indices: int) -> list[Verdict | None]:
        where = {"replica": held.replica, "episodes": held.episodes}
        scored = await self.bus.ask(EpisodeScore(indices=list(indices), **where), 20)
        return list(scored.verdicts)

    async def renew(self, held: EpisodesStarted) -> None:
        await self.bus.ask(EpisodeRenew(replica=held.replica, episodes=held.episodes), 20)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path)
    yield made
    for scorer in made.scorers:
        await scorer.close()
    await made.bus.close(0.1)


async def test_episodes_are_opened_stepped_and_scored(world: World) -> None:
    await world.run()
    await world.scorer()

    held = await world.start()
    first = await world.step(held, 0, 0, "a")
    last = await world.step(held, 0, 1, "stop")
    await world.step(held, 1, 0, "stop")

    assert [m["content"] for m in held.openings[0].messages] == ["Be brief.", "q"]
    assert (first.done, first.messages[0]["content"], last.done) == (False, "1", True)
    assert [verdict and verdict.reward for verdict in await world.score(held, 0, 1)] == [6.0, 4.0]


async def test_a_step_and_a_score_that_are_asked_twice_are_done_once(world: World) -> None:
    await world.run()
    await world.scorer()
    held = await world.start(1)

    steps = await asyncio.gather(*(world.step(held, 0, 0, "stop") for _ in range(3)))
    scores = [await world.score(held, 0) for _ in range(2)]

    assert [step.messages[0]["content"] for step in steps] == ["1"] * 3
    assert scores[0] == scores[1]


async def test_episodes_are_known_to_the_scorer_that_opened_them(world: World) -> None:
    await world.run()
    for _ in range(2):
        await world.scorer()

    held = [await world.start() for _ in range(4)]

    assert sorted(each.replica for each in held) == ["scorer-1", "scorer-1", "scorer-2", "scorer-2"]
    for each in held:
        assert (await world.step(each, 0, 0, "stop")).done


async def test_whose_player_gives_them_up_make_room_at_once(world: World) -> None:
    await world.run()
    await world.scorer(max_episode_groups=1)
    held = await world.start()
    assert not (await world.start()).episodes

    for _ in range(2):
        await world.bus.ask(EpisodeClose(replica=held.replica, episodes=held.episodes), 20)

    assert (await world.start()).episodes
    with pytest.raises(NotFound, match="begin anew"):
        await world.step(held, 0, 0, "a")


async def test_whose_lease_is_not_renewed_is_gone_and_whose_is_stays(world: World) -> None:
    await world.run()
    await world.scorer(episode_lease_s=0.4)
    kept, left = await world.start(), await world.start()

    for _ in range(8):
        await asyncio.sleep(0.1)
        await world.renew(kept)

    assert (await world.step(kept, 0, 0, "stop")).done
    with pytest.raises(NotFound, match=r"scorer-1 holds no episodes .*: they begin anew"):
        await world.step(left, 0, 0, "stop")


async def test_lapsed_episodes_make_room(world: World) -> None:
    await world.run()
    await world.scorer(episode_lease_s=0.3, max_episode_groups=1)
    first = await world.start()

    refused = await world.start()
    await asyncio.sleep(0.8)
    again = await world.start()

    assert refused == EpisodesStarted()
    assert again.episodes not in ("", first.episodes)


async def test_scored_episodes_make_room(world: World) -> None:
    await world.run()
    await world.scorer(max_episode_groups=1)
    held = await world.start(1)
    await world.step(held, 0, 0, "stop")

    await world.score(held, 0)

    assert (await world.start()).episodes


async def test_a_process_that_dies_is_told_to_whoever_asks(world: World) -> None:
    await world.run()
    await world.scorer()
    held = await world.start()

    with pytest.raises(NotFound, match="exited with status 3"):
        await world.step(held, 0, 0, "die")

    with pytest.raises(NotFound):
        await world.renew(held)
    assert await world.score(held, 1) == [None]


async def test_a_step_that_hangs_is_a_fault(world: World) -> None:
    await world.run()
    await world.scorer()
    held = await world.start()

    stepped = await world.step(held, 0, 0, "hang")

    assert stepped.fault.kind == "timed-out"


async def test_an_environment_that_runs_what_the_policy_wrote_gets_each_episode_alone(world: World) -> None:
    await world.run(ALONE)
    await world.scorer()

    assert (await world.start(2)).alone
    assert (await world.start(1)).episodes


async def test_an_environment_that_does_not_load_is_a_fault(world: World) -> None:
    await world.run("raise ValueError('broken')")
    await world.scorer()

    started = await world.start()

    assert started.fault is not None
    assert started.fault.kind == "load-failed"


async def test_who_comes_while_packages_are_installed_is_told_to_ask_again(
    world: World, index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = tmp_path / "uv"
    slow.write_text(f"#!/bin/sh\nwhile [ ! -e {index}/go-on ]; do sleep 0.05; done\n")
    slow.chmod(0o755)
    monkeypatch.setattr(Installer, "found", lambda: Installer("uv", "1", (str(slow),)))
    monkeypatch.setattr("services.scorer.episodes.READY_WITHIN_S", 0.2)
    await world.run(TOGETHER, "greeting")
    await world.scorer()

    assert await world.start() == EpisodesStarted()
    (index / "go-on").touch()
    async with asyncio.timeout(20):
        while not (started := await world.start()).episodes:
            assert started == EpisodesStarted()


async def test_packages_that_cannot_be_had_for_the_moment_are_no_fault_of_the_policys(
    world: World, index: Path
) -> None:
    await world.run(TOGETHER, "greeting")
    await world.scorer()

    with pytest.raises(BusError, match=r"environment\.pip \[greeting\] cannot be installed"):
        await world.start()
    wheel(index, "greeting", "1.0")
    assert (await world.start()).episodes


async def test_a_group_that_was_scored_where_it_was_played_is_passed_on(world: World) -> None:
    await world.run("raise ValueError('nobody needs to load this')")
    scorer = await world.scorer()
    verdicts = [Verdict(reward=1.0, success=True), Verdict(reward=0.5)]
    event = GroupGenerated(
        org="local", run_id="r1", scope="train", step=1, group=0, example=EXAMPLE, policy=PolicyRef(), prompt_ids=b"",
        rollouts=[Rollout(text="a"), Rollout(text="b")], verdicts=verdicts,
    )  # fmt: skip

    [scored] = await scorer.on_group_generated(event)

    assert (scored.verdicts, scored.rollouts) == (verdicts, event.rollouts)  # type: ignore[attr-defined]
