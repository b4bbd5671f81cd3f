"""Episodes of several turns: what the policy wrote is kept as it was drawn, and what is lost begins anew."""

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest

from flash.bus.memory import MemoryBus
from flash.contracts.base import Done
from flash.contracts.groups import GroupCancelled, GroupGenerated, GroupRequested
from flash.contracts.hosting import (
    EpisodeClose,
    EpisodeRenew,
    EpisodeScore,
    EpisodesScored,
    EpisodesStarted,
    EpisodeStart,
    EpisodeStep,
    Opening,
    Stepped,
)
from flash.contracts.packing import unpack_floats, unpack_ids
from flash.contracts.runs import RunCancelled
from flash.contracts.steps import StepFinished
from flash.contracts.values import Example, Fault, Verdict
from flash.errors import NotFound
from services.rollout.engines import Sample
from services.rollout.seeds import rollout_seed

Requested = Callable[..., GroupRequested]
GENERATED = GroupGenerated.pattern()
ON = {"role": "user", "content": "on"}


@dataclass
class FakeScorer:
    """Holds episodes that end after `turns` steps, and rewards how many there were."""

    replica: str = "scorer-1"
    turns: int = 2
    steps: list[EpisodeStep] = field(default_factory=list)
    starts: list[EpisodeStart] = field(default_factory=list)
    renewed: int = 0
    renewing: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(0))
    """Released by each renewal."""
    played: Counter[tuple[str, int]] = field(default_factory=Counter)
    answers: list[EpisodesStarted | Exception] = field(default_factory=list)
    """Given to the first starts, in place of what would be."""
    on_step: Callable[[EpisodeStep], Stepped | None] = lambda step: None
    compared: bool = False
    closed: asyncio.Queue[str] = field(default_factory=asyncio.Queue)

    async def listen(self, bus: MemoryBus) -> None:
        kinds = {
            EpisodeStart: self.start, EpisodeStep: self.step, EpisodeScore: self.score, EpisodeRenew: self.renew,
            EpisodeClose: self.close,
        }  # fmt: skip
        await bus.answer("scorer", kinds, replica=self.replica)

    async def start(self, request: EpisodeStart) -> EpisodesStarted:
        self.starts.append(request)
        if self.answers:
            answer = self.answers.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return answer
        openings = [Opening(messages=[{"role": "user", "content": "2+2"}])] * request.count
        name = f"e{len(self.starts)}"
        return EpisodesStarted(replica=self.replica, episodes=name, openings=openings, compared=self.compared)

    async def step(self, request: EpisodeStep) -> Stepped:
        self.steps.append(request)
        if (stepped := self.on_step(request)) is not None:
            return stepped
        which = (request.episodes, request.index)
        self.played[which] += 1
        return Stepped(messages=[ON], done=self.played[which] >= self.turns)

    async def score(self, request: EpisodeScore) -> EpisodesScored:
        played = [float(self.played[request.episodes, index]) for index in request.indices]
        return EpisodesScored(verdicts=[Verdict(reward=reward) for reward in played])

    async def renew(self, request: EpisodeRenew) -> Done:
        self.renewed += 1
        self.renewing.release()
        return Done()

    async def close(self, request: EpisodeClose) -> Done:
        self.closed.put_nowait(request.episodes)
        return Done()


@pytest.fixture
async def scorer(world: Any) -> FakeScorer:
    made = FakeScorer()
    await made.listen(world.bus)
    return made


@pytest.fixture
def game(requested: Requested) -> Requested:
    """A group whose example takes several turns."""
    example = Example(index=0, id="e0", input="2+2", messages=[{"role": "user", "content": "2+2"}], max_turns=4)
    return lambda **other: requested(**{"example": example, **other})


async def played(world: Any, event: GroupRequested, **run: Any) -> GroupGenerated:
    world.engine.context = max(world.engine.context, 64) if not run.pop("narrow", False) else world.engine.context
    await world.run(**run)
    [generated] = await asyncio.wait_for(world.player.on_group_requested(event), 10)
    assert isinstance(generated, GroupGenerated)
    return generated


async def test_turns_are_appended_as_they_were_drawn(world: Any, scorer: FakeScorer, game: Requested) -> None:
    generated = await played(world, game(step=2, group=5))

    for index, rollout in enumerate(generated.rollouts):
        digits = [1 + rollout_seed(42, "train", 2, 5, index, turn) % 9 for turn in (0, 1)]
        first, second = ([digit] * 3 + [0] for digit in digits)
        assert unpack_ids(rollout.token_ids) == [*first, ord("o"), ord("n"), *second]
        assert rollout.mask == b"\1" * 4 + b"\0" * 2 + b"\1" * 4
        assert unpack_floats(rollout.logprobs) == [-0.5] * 4 + [0.0] * 2 + [-0.5] * 4
        said = [{"role": "assistant", "content": str(digit) * 3} for digit in digits]
        assert rollout.messages == [said[0], ON, said[1], ON]
        assert rollout.text == said[1]["content"]
        assert [(turn.tokens, turn.finish_reason) for turn in rollout.turns] == [(4, "stop")] * 2
    assert unpack_ids(generated.prompt_ids) == [ord(letter) for letter in "2+2"]
    assert [verdict.reward for verdict in generated.verdicts] == [2.0] * 3


async def test_each_turn_is_sampled_behind_all_that_was_drawn_before(
    world: Any, scorer: FakeScorer, game: Requested
) -> None:
    generated = await played(world, game())

    shown = [ord(letter) for letter in "2+2"] + unpack_ids(generated.rollouts[0].token_ids)
    seed = rollout_seed(42, "train", 1, 0, 0, 1)
    [asked] = [request for request in world.engine.asked if request.seeds == (seed,)]
    assert list(asked.prompt_ids) == shown[:9]
    assert (asked.temperature, asked.max_tokens, asked.stop) == (0.5, 8, (".",))


async def test_all_rollouts_of_a_group_ask_at_the_same_time(world: Any, scorer: FakeScorer, game: Requested) -> None:
    world.engine.gate.clear()
    playing = asyncio.create_task(played(world, game()))
    for _ in range(3):
        await asyncio.wait_for(world.engine.asking.acquire(), 5)

    world.engine.gate.set()

    assert len((await playing).rollouts) == 3


async def test_all_turns_are_of_the_policy_that_an_episode_began_with(
    world: Any, scorer: FakeScorer, game: Requested
) -> None:
    old, new = await world.adapter(1), await world.adapter(2)
    world.engine.gate.clear()
    playing = asyncio.create_task(played(world, game(step=2, policy=old)))
    await asyncio.wait_for(world.engine.asking.acquire(), 5)

    told = {"org": "local", "run_id": "r1", "attempt": 1}
    await world.player.on_policy(StepFinished(**told, step=2, policy=new))
    world.engine.gate.set()

    assert (await playing).policy == old
    assert [asked.adapter.digest for asked in world.engine.asked] == [old.digest] * 6


async def test_the_scorer_hears_every_action_with_its_turn(world: Any, scorer: FakeScorer, game: Requested) -> None:
    await played(world, game(), thinking=True)

    assert sorted((step.index, step.turn) for step in scorer.steps) == [(i, t) for i in range(3) for t in range(2)]
    assert all(step.prompt_opened for step in scorer.steps)
    assert {step.replica for step in scorer.steps} == {"scorer-1"}


async def test_an_episode_stays_with_the_scorer_that_opened_it(world: Any, game: Requested) -> None:
    both = [FakeScorer("scorer-1"), FakeScorer("scorer-2")]
    for each in both:
        await each.listen(world.bus)
    await world.run()

    for group in range(4):
        await played(world, game(group=group))

    for each in both:
        assert len(each.starts) == 2
        assert len(each.steps) == 12
        assert {step.replica for step in each.steps} == {each.replica}


async def test_an_answer_that_is_cut_off_is_stepped_and_ends_its_episode(
    world: Any, scorer: FakeScorer, game: Requested, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def cut(request: Any, on_text: Any = None) -> list[Sample]:
        return [Sample([7] * 8, [-1.0] * 8, "7" * 8, "length")]

    monkeypatch.setattr(world.engine, "sample", cut)
    generated = await played(world, game())

    assert [rollout.finish_reason for rollout in generated.rollouts] == ["length"] * 3
    assert [rollout.mask for rollout in generated.rollouts] == [b"\1" * 8] * 3
    assert len(scorer.steps) == 3
    assert [verdict.reward for verdict in generated.verdicts] == [1.0] * 3


async def test_an_episode_that_fills_the_context_ends_there(world: Any, scorer: FakeScorer, game: Requested) -> None:
    scorer.turns = 9
    world.engine.context = 3 + 4 + 2 + 4 + 2  # the second `on` leaves no room

    generated = await played(world, game(), narrow=True)

    assert [rollout.finish_reason for rollout in generated.rollouts] == ["length"] * 3
    assert [len(rollout.mask) for rollout in generated.rollouts] == [10] * 3
    assert [verdict.reward for verdict in generated.verdicts] == [2.0] * 3


async def test_a_prompt_that_leaves_no_room_is_a_fault(world: Any, scorer: FakeScorer, game: Requested) -> None:
    world.engine.context = 3

    generated = await played(world, game(), narrow=True)

    assert [rollout.fault.kind for rollout in generated.rollouts if rollout.fault] == ["generation-failed"] * 3
    assert [verdict.fault.kind for verdict in generated.verdicts if verdict.fault] == ["generation-failed"] * 3


async def test_a_step_that_fails_costs_its_own_episode(world: Any, scorer: FakeScorer, game: Requested) -> None:
    fault = Fault(kind="raised", message="KeyError")
    scorer.on_step = lambda step: Stepped(fault=fault) if step.index == 1 else None

    generated = await played(world, game())

    assert [verdict.fault or verdict.reward for verdict in generated.verdicts] == [2.0, fault, 2.0]
    assert sum(generated.rollouts[1].mask) == 4


async def test_an_environment_that_does_not_load_is_a_fault_of_every_rollout(
    world: Any, scorer: FakeScorer, game: Requested
) -> None:
    fault = Fault(kind="load-failed", message="no")
    scorer.answers = [EpisodesStarted(fault=fault)]

    generated = await played(world, game())

    assert [verdict.fault for verdict in generated.verdicts] == [fault] * 3
    assert [rollout.finish_reason for rollout in generated.rollouts] == ["fault"] * 3
    assert world.engine.asked == []


async def test_a_scorer_without_room_is_asked_again(
    world: Any, scorer: FakeScorer, game: Requested, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.rollout.episodes.AGAIN_S", 0.01)
    scorer.answers = [EpisodesStarted(), EpisodesStarted()]

    generated = await played(world, game())

    assert len(scorer.starts) == 3
    assert [verdict.reward for verdict in generated.verdicts] == [2.0] * 3


async def test_an_environment_that_wants_episodes_alone_gets_them_alone(
    world: Any, scorer: FakeScorer, game: Requested
) -> None:
    scorer.answers = [EpisodesStarted(alone=True)]

    generated = await played(world, game())

    assert [start.count for start in scorer.starts] == [3, 1, 1, 1]
    assert [verdict.reward for verdict in generated.verdicts] == [2.0] * 3


def crash(text: str = "the process that played the episodes ended") -> Any:
    raise NotFound(text)


async def test_lost_episodes_begin_anew_each_alone_and_say_the_same(
    world: Any, scorer: FakeScorer, game: Requested
) -> None:
    undisturbed = await played(world, game())
    scorer.on_step = lambda step: crash() if step.episodes == "e2" and step.turn == 1 else None

    disturbed = await played(world, game())

    assert [start.count for start in scorer.starts] == [3, 3, 1, 1, 1]
    assert untimed(disturbed) == untimed(undisturbed)


def untimed(group: GroupGenerated) -> Any:
    """All but how long things took."""
    rollouts = [
        msgspec.structs.replace(rollout, turns=[msgspec.structs.replace(turn, took_s=0.0) for turn in rollout.turns])
        for rollout in group.rollouts
    ]
    return rollouts, group.verdicts, group.prompt_ids


async def test_compared_episodes_begin_anew_together(world: Any, scorer: FakeScorer, game: Requested) -> None:
    scorer.compared = True
    scorer.on_step = lambda step: crash() if step.episodes == "e1" else None

    generated = await played(world, game())

    assert [start.count for start in scorer.starts] == [3, 3]
    assert [verdict.reward for verdict in generated.verdicts] == [2.0] * 3


async def test_an_episode_lost_four_times_is_a_fault_and_the_others_are_not(
    world: Any, scorer: FakeScorer, game: Requested
) -> None:
    bad = str(1 + rollout_seed(42, "train", 1, 0, 1) % 9) * 3
    texts = [str(1 + rollout_seed(42, "train", 1, 0, index) % 9) * 3 for index in range(3)]
    assert texts.count(bad) == 1
    scorer.on_step = lambda step: crash() if step.text == bad and step.turn == 0 else None

    generated = await played(world, game())

    assert [start.count for start in scorer.starts] == [3, 1, 1, 1, 1, 1]
    faults = [verdict.fault and verdict.fault.kind for verdict in generated.verdicts]
    assert faults == [None, "crashed", None]
    assert "lost 4 times" in generated.verdicts[1].fault.message  # type: ignore[union-attr]


async def test_a_scorer_that_dies_in_the_middle_loses_the_group_to_another(world: Any, game: Requested) -> None:
    dying = world.bus.replica("scorer:scorer-1")
    first, second = FakeScorer("scorer-1"), FakeScorer("scorer-2")
    stepping = asyncio.Event()

    async def hang(request: EpisodeStep) -> Stepped:
        stepping.set()
        await asyncio.Event().wait()
        raise AssertionError

    first.step = hang  # type: ignore[method-assign]
    await first.listen(dying)
    playing = asyncio.create_task(played(world, game()))
    await asyncio.wait_for(stepping.wait(), 5)

    await second.listen(world.bus)
    await dying.kill()

    generated = await playing
    assert [start.count for start in second.starts] == [3]
    assert [verdict.reward for verdict in generated.verdicts] == [2.0] * 3


async def test_a_step_whose_answer_is_lost_is_asked_again(world: Any, scorer: FakeScorer, game: Requested) -> None:
    lost = iter([True, True])
    answer = scorer.step

    async def step(request: EpisodeStep) -> Stepped:
        if next(lost, False):
            await asyncio.Event().wait()
        return await answer(request)

    scorer.step = step  # type: ignore[method-assign]
    await world.bus.close(0.0)
    await scorer.listen(world.bus)

    generated = await played(world, game())

    assert [verdict.reward for verdict in generated.verdicts] == [2.0] * 3
    assert len(scorer.starts) == 1


async def test_a_scorer_that_never_answers_a_step_loses_its_episodes(
    world: Any, scorer: FakeScorer, game: Requested
) -> None:
    world.player._episodes._step_timeout_s = 0.1
    scorer.on_step = lambda step: None
    answer = scorer.step

    async def step(request: EpisodeStep) -> Stepped:
        if request.episodes == "e1":
            await asyncio.Event().wait()
        return await answer(request)

    scorer.step = step  # type: ignore[method-assign]
    await world.bus.close(0.0)
    await scorer.listen(world.bus)

    generated = await played(world, game())

    assert [start.count for start in scorer.starts] == [3, 3]
    assert [verdict.reward for verdict in generated.verdicts] == [2.0] * 3


async def test_the_lease_is_renewed_for_as_long_as_the_policy_thinks(
    world: Any, scorer: FakeScorer, game: Requested
) -> None:
    world.engine.gate.clear()
    playing = asyncio.create_task(played(world, game()))
    for _ in range(3):
        await asyncio.wait_for(scorer.renewing.acquire(), 5)

    world.engine.gate.set()
    await playing

    renewed = scorer.renewed
    await asyncio.sleep(0.2)
    assert scorer.renewed == renewed


async def test_a_run_that_ends_frees_its_episodes(world: Any, scorer: FakeScorer, game: Requested) -> None:
    world.engine.gate.clear()
    await world.run()
    playing = asyncio.create_task(world.player.on_group_requested(game()))
    for _ in range(3):
        await asyncio.wait_for(world.engine.asking.acquire(), 5)

    await world.player.on_run_ended(RunCancelled(org="local", run_id="r1"))

    [dropped] = await asyncio.wait_for(playing, 5)
    assert isinstance(dropped, GroupCancelled)
    for _ in range(3):
        await asyncio.wait_for(world.engine.cancelled.acquire(), 5)
    assert await asyncio.wait_for(scorer.closed.get(), 5) == "e1"  # for whoever waits for room


async def test_openings_that_differ_share_what_they_have_in_common(
    world: Any, scorer: FakeScorer, game: Requested
) -> None:
    openings = [Opening(messages=[{"role": "user", "content": f"2+{n}"}]) for n in "234"]
    scorer.answers = [EpisodesStarted(replica="scorer-1", episodes="e1", openings=openings)]
    scorer.turns = 1

    generated = await played(world, game())

    assert unpack_ids(generated.prompt_ids) == [ord("2"), ord("+")]
    for n, rollout in zip("234", generated.rollouts, strict=True):
        assert unpack_ids(rollout.token_ids)[0] == ord(n)
        assert rollout.mask == b"\0" + b"\1" * 4
        assert unpack_floats(rollout.logprobs)[0] == 0.0
