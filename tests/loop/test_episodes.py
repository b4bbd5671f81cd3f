"""Episodes of several turns through all services in one process: `examples/guess`, played and trained on."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from flash.artifacts import pack
from flash.bus.memory import MemoryBus
from flash.contracts.groups import GroupScored
from flash.contracts.keys import environment_key
from flash.contracts.packing import unpack_floats, unpack_ids
from flash.contracts.requests import RunSubmit
from flash.contracts.runs import RunCompleted, RunFailed
from flash.contracts.spec import EnvironmentSpec, RunSpec, SamplingSpec, TrainSpec
from flash.contracts.steps import StepFinished
from flash.models import folder
from flash.models.rendering import load_tokenizer, sft_ids
from services.learner.policy import Base
from services.learner.service import Learner
from services.learner.settings import Settings as LearnerSettings
from services.rollout.adapters import Adapters
from services.rollout.engines.torch import TorchEngine, load
from services.rollout.prompts import follow, render
from services.rollout.service import Player
from services.rollout.settings import Settings as RolloutSettings
from services.scheduler.service import Scheduler
from services.scheduler.settings import Settings as SchedulerSettings
from services.scorer.service import Scorer
from services.scorer.settings import Settings as ScorerSettings

GUESS = Path(__file__).parents[2] / "examples/guess"
HEADER = "<|im_start|>assistant\n<think>\n\n</think>\n\n"


@asynccontextmanager
async def running(home: Path) -> AsyncIterator[MemoryBus]:
    bus, place = MemoryBus(), folder("tiny", home)
    tokenizer = load_tokenizer(place)
    engine = TorchEngine(partial(load, place, device="cpu"))
    await engine.start()
    scheduler = Scheduler(bus, bus.store, SchedulerSettings(), now=lambda: 1.0)
    scorer = Scorer(bus, bus.store, ScorerSettings(home=home, replica="scorer-1"))
    player = Player(
        bus, bus.store, engine, partial(render, tokenizer), Adapters(bus.store, home / "adapters", 1 << 30),
        RolloutSettings(home=home), "tiny", clock=lambda: 0.0, follow=partial(follow, tokenizer),
    )  # fmt: skip
    base = await asyncio.to_thread(Base.load, place, "tiny", "cpu")
    gold = lambda example, thinking: sft_ids(  # noqa: E731
        tokenizer, example.messages, example.completion or [], thinking=thinking
    )
    learner = Learner(bus, bus.store, base, gold, LearnerSettings(home=home), "tiny")
    await bus.answer("scheduler", scheduler.answers())
    await bus.answer("scorer", scorer.answers(), replica=scorer.replica)
    for service in (scorer, player, learner):
        await bus.listen(*service.subscriptions())
    watching = asyncio.create_task(scheduler.watch())
    try:
        yield bus
    finally:
        watching.cancel()
        await bus.close(1.0)
        await scorer.close()
        await engine.close()


async def ran(bus: MemoryBus, run_id: str, sampling: SamplingSpec | None, train: TrainSpec) -> list[StepFinished]:
    packed = pack(GUESS)
    environment = EnvironmentSpec(
        id="local/guess", version=packed.digest[:12], digest=packed.digest,
        key=environment_key("local", "guess", packed.digest[:12]),
    )  # fmt: skip
    await bus.store.put(environment.key, packed.data)
    spec = RunSpec(
        org="local", run_id=run_id, algorithm="grpo" if sampling else "sft", model="tiny", pool="tiny", seed=7,
        split="train", prompt_text="Play.", environment=environment, sampling=sampling, train=train,
    )  # fmt: skip
    await bus.ask(RunSubmit(spec=spec))
    async with asyncio.timeout(120):
        async for told in bus.replay(RunCompleted.pattern(run_id=run_id), RunFailed.pattern(run_id=run_id)):
            assert isinstance(told.event, RunCompleted), told.event
            break
    steps = [told.event async for told in bus.history(StepFinished.pattern(run_id=run_id))]
    return [step for step in steps if isinstance(step, StepFinished)]


TRAIN = TrainSpec(
    lora_rank=8, lora_alpha=16, learning_rate=1e-3, batch_size=4, max_length=256, save_every=4, steps=3, max_lag=0
)


async def test_a_game_of_several_turns_is_played_scored_and_learned_from(tmp_path: Path) -> None:
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


async def test_sft_learns_from_games_that_the_environment_plays(tmp_path: Path) -> None:
    async with running(tmp_path) as bus:
        steps = await ran(bus, "r1", None, TrainSpec(
            lora_rank=8, lora_alpha=16, learning_rate=2e-3, batch_size=16, max_length=256, save_every=8, epochs=1
        ))  # fmt: skip

    assert steps[-1].metrics["dropped"] == 0.0
    assert steps[-1].metrics["loss"] < steps[1].metrics["loss"]
