"""Episodes of several turns through all services in one process: `examples/guess`, played and trained on."""

import asyncio
import json
import random
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest

from flash.artifacts import pack
from flash.bus.memory import MemoryBus
from flash.contracts.groups import GroupRequested, GroupScored
from flash.contracts.keys import environment_key, spec_key
from flash.contracts.packing import unpack_floats, unpack_ids
from flash.contracts.requests import RunSubmit
from flash.contracts.runs import RunCompleted, RunFailed
from flash.contracts.spec import EnvironmentSpec, RunSpec, SamplingSpec, TrainSpec
from flash.contracts.steps import StepFinished
from flash.contracts.values import Example, PolicyRef
from flash.models import folder
from flash.models.lengths import measured
from flash.models.rendering import load_tokenizer
from services.rollout.adapters import Adapters
from services.rollout.engines import Adapter, OnText, Sample, SampleRequest
from services.rollout.prompts import follow, render
from services.rollout.service import Player
from services.rollout.settings import Settings as RolloutSettings
from services.scorer.service import Scorer
from services.scorer.settings import Settings as ScorerSettings

GUESS = Path(__file__).parents[2] / "examples/guess"
HEADER = "<|im_start|>assistant\n<think>\n\n</think>\n\n"


async def guessing(bus: MemoryBus, run_id: str, sampling: SamplingSpec | None, train: TrainSpec | None) -> RunSpec:
    """A run of the example, whose archive lies in the store."""
    packed = pack(GUESS)
    environment = EnvironmentSpec(
        id="local/guess", version=packed.digest[:12], digest=packed.digest,
        key=environment_key("local", "guess", packed.digest[:12]),
    )  # fmt: skip
    await bus.store.put(environment.key, packed.data)
    return RunSpec(
        org="local", run_id=run_id, algorithm="grpo" if sampling else "sft", model="tiny", pool="tiny", seed=7,
        split="train", prompt_text="Play.", environment=environment, sampling=sampling, train=train,
    )  # fmt: skip


async def ran(bus: MemoryBus, run_id: str, sampling: SamplingSpec | None, train: TrainSpec) -> list[StepFinished]:
    await bus.ask(RunSubmit(spec=await guessing(bus, run_id, sampling, train)))
    async with asyncio.timeout(120):
        async for told in bus.replay(RunCompleted.pattern(run_id=run_id), RunFailed.pattern(run_id=run_id)):
            assert isinstance(told.event, RunCompleted), told.event
            break
    steps = [told.event async for told in bus.history(StepFinished.pattern(run_id=run_id))]
    return [step for step in steps if isinstance(step, StepFinished)]


TRAIN = TrainSpec(
    lora_rank=8, lora_alpha=16, learning_rate=1e-3, batch_size=4, max_length=256, save_every=4, steps=3, max_lag=0
)


async def test_a_game_of_several_turns_is_played_scored_and_learned_from(running: Any, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(folder("tiny", tmp_path))
    async with running(tmp_path) as bus:
        steps = await ran(bus, "r1", SamplingSpec(group_size=4, temperature=1.0, max_tokens=8), TRAIN)
        groups = [told.event async for told in bus.history(GroupScored.pattern())]

    assert len(groups) == 12
    for group in groups:
        assert isinstance(group, GroupScored)
        assert [verdict.fault for verdict in group.verdicts] == [None] * 4
        assert tokenizer.decode(unpack_ids(group.prompt_ids)) == (
            f"<|im_start|>system\nPlay.<|im_end|>\n<|im_start|>user\nGuess {group.example.input}<|im_end|>\n{HEADER}"
        )
        for rollout, verdict in zip(group.rollouts, group.verdicts, strict=True):
            ids, logprobs = unpack_ids(rollout.token_ids), unpack_floats(rollout.logprobs)
            said = [m["content"] for m in rollout.messages if m["role"] == "assistant"]
            assert len(ids) == len(logprobs) == len(rollout.mask)
            assert all((logp == 0.0) == (not bit) for logp, bit in zip(logprobs, rollout.mask, strict=True))
            assert sum(turn.tokens for turn in rollout.turns) == sum(rollout.mask)
            assert len(said) == len(rollout.turns) == verdict.metrics[0].score <= 4
    # What the sampler said of the tokens that the policy wrote, the learner says too: the whole reads as one text.
    assert [step.step for step in steps] == [0, 1, 2, 3]
    assert all(step.metrics["logprob_gap_max"] < 1e-4 for step in steps[1:])
    assert all(step.metrics["turns"] >= 1 for step in steps[1:])


async def test_sft_learns_from_games_that_the_environment_plays(running: Any, tmp_path: Path) -> None:
    async with running(tmp_path) as bus:
        steps = await ran(bus, "r1", None, TrainSpec(
            lora_rank=8, lora_alpha=16, learning_rate=2e-3, batch_size=16, max_length=256, save_every=8, epochs=1
        ))  # fmt: skip

    assert steps[-1].metrics["dropped"] == 0.0
    assert steps[-1].metrics["loss"] < steps[1].metrics["loss"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("service", "point"), [("scorer", "before-step:9"), ("rollout", "generated:2")], ids=lambda value: str(value)
)
async def test_episodes_begin_anew_when_who_plays_them_dies(
    stack: Any, replayed: Any, service: str, point: str
) -> None:
    await stack.replace(f"{service}-1", kill_at=point)

    await stack.train("r1", GUESS)

    assert isinstance(await stack.outcome("r1"), RunCompleted)
    assert stack.deaths[f"{service}-1"] == 1
    await holds(stack, replayed)


@pytest.mark.slow
async def test_a_scorer_that_is_gone_for_good_leaves_its_episodes_to_the_other(stack: Any, replayed: Any) -> None:
    await stack.run("scorer", "scorer-2")
    await stack.train("r1", GUESS)
    await stack.step("r1", 1)

    await stack.end("scorer-1")

    assert isinstance(await stack.outcome("r1"), RunCompleted)
    await holds(stack, replayed)


@pytest.mark.slow
async def test_episodes_go_on_after_the_death_of_nats_server(stack: Any, replayed: Any) -> None:
    await stack.train("r1", GUESS)
    await stack.step("r1", 1)

    await stack.nats.kill()
    await stack.nats.start()

    assert isinstance(await stack.outcome("r1"), RunCompleted)
    await holds(stack, replayed)


async def holds(stack: Any, replayed: Any) -> None:
    """No group is lost or trained on twice, and no rollout of them is a fault."""
    steps, groups = await stack.steps("r1"), await stack.groups("r1")
    trained = sorted((step.step, group.group) for step in steps for group in step.groups)
    assert trained == [(step, group) for step in range(1, 7) for group in range(4)]
    assert [verdict.fault for group in groups for verdict in group.verdicts] == [None] * 4 * len(groups)
    assert await replayed(stack, "r1") == steps[-1].policy.digest


class Guesser:
    """Plays like a policy that has read the rules and throws dice, and now and then writes nonsense."""

    context = 512

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        [self._end] = tokenizer("<|im_end|>")["input_ids"]

    async def sample(self, request: SampleRequest, on_text: OnText | None = None) -> list[Sample]:
        await asyncio.sleep(0)
        chance = random.Random(request.seeds[0])
        text = chance.choice([str(chance.randint(1, 9))] * 8 + ["", "no idea ×", "9" * 40])
        ids = self._tokenizer(text)["input_ids"][: request.max_tokens - 1]
        return [Sample([*ids, self._end], [-1.0] * (len(ids) + 1), text, "stop")]

    async def start(self) -> None: ...

    def expect(self, adapter: Adapter) -> None: ...

    async def close(self) -> None: ...


@pytest.mark.slow
async def test_thousands_of_games_are_played_to_the_end_without_a_fault(tmp_path: Path) -> None:
    bus, place = MemoryBus(), folder("tiny", tmp_path)
    tokenizer = load_tokenizer(place)
    scorer = Scorer(bus, bus.store, ScorerSettings(home=tmp_path, replica="scorer-1"))
    await bus.answer("scorer", scorer.answers(), replica=scorer.replica)
    player = Player(
        bus, bus.store, Guesser(tokenizer), partial(render, tokenizer), Adapters(bus.store, tmp_path / "a", 1 << 20),
        RolloutSettings(home=tmp_path), "tiny", clock=lambda: 0.0, follow=partial(follow, tokenizer),
        measure=partial(measured, tokenizer),
    )  # fmt: skip
    spec = await guessing(bus, "r1", SamplingSpec(group_size=8, temperature=1.0, max_tokens=32), None)
    await bus.store.put(spec_key("r1"), msgspec.json.encode(spec))
    rows = [json.loads(line) for line in (GUESS / "dataset/train.jsonl").read_text().splitlines()]
    slots, finished = asyncio.Semaphore(8), 0

    async def play(group: int) -> None:
        row = rows[group % len(rows)]
        example = Example(
            index=group, id="e", input=row["input"], output=row["output"], metadata=row["metadata"], record=row,
            max_turns=4,
        )  # fmt: skip
        asked = GroupRequested(
            org="local", run_id="r1", attempt=1, pool="tiny", scope="train", step=1, group=group, example=example,
            policy=PolicyRef(),
        )  # fmt: skip
        async with slots:
            [generated] = await player.on_group_requested(asked)
        nonlocal finished
        for rollout, verdict in zip(generated.rollouts, generated.verdicts, strict=True):  # type: ignore[attr-defined]
            won = rollout.text == row["output"]
            assert verdict.fault is None
            assert verdict.success == won
            assert len(rollout.turns) == 4 or won
            finished += 1

    await asyncio.gather(*(play(group) for group in range(250)))

    assert finished == 2_000
    await scorer.close()
    await bus.close(0.1)
