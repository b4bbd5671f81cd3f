"""The learner on a bus: runs from claim to last checkpoint, undisturbed and disturbed."""

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from flash.bus.memory import HandMovedClock, MemoryBus, MemoryStream
from flash.contracts.base import Event
from flash.contracts.groups import GroupScored
from flash.contracts.keys import dataset_key, spec_key
from flash.contracts.runs import DatasetPrepared, RunCancelled, RunCancelRequested, RunResumed, RunStarted
from flash.contracts.spec import RunSpec
from flash.contracts.steps import StepClaimed, StepDiverged, StepFinished, StepSaved, TrainingFailed
from flash.contracts.values import Example, PolicyRef
from flash.errors import StoreError
from services.learner.policy import CONFIG, WEIGHTS, Base, Policy, digest_of
from services.learner.service import Learner
from services.learner.settings import Settings
from services.learner.training import Training

STEPS = 4


def groups_of(make: Any, *, steps: int = STEPS, run_id: str = "run") -> list[GroupScored]:
    """Two a step; those of step 3 teach nothing."""
    rewards = {3: ((1.0, 1.0), (0.0, None))}
    return [
        make.scored(index, rewards.get(step, ((1.0, 0.0), (0.25, 0.5)))[index], step=step, run_id=run_id)
        for step in range(1, steps + 1)
        for index in (1, 0)
    ]


def render(example: Example, thinking: bool) -> tuple[list[int], list[int]]:
    length = int(example.input)
    return list(range(length)), [0] * (length - 2) + [1, 1]


def learner_on(bus: MemoryBus, base: Base, name: str = "one", **settings: Any) -> Learner:
    return Learner(bus, bus.store, base, render, Settings(replica=name, **settings), "random")


async def store_spec(bus: MemoryBus, spec: RunSpec) -> None:
    await bus.store.put(spec_key(spec.run_id), msgspec.json.encode(spec))


async def facts(bus: MemoryBus, run_id: str = "run") -> list[Event]:
    patterns = [
        kind.pattern(org="local", run_id=run_id) for kind in (StepClaimed, StepFinished, StepSaved, StepDiverged)
    ]
    failed = TrainingFailed.pattern(org="local", run_id=run_id)
    return [told.event async for told in bus.history(*patterns, failed)]


async def until(bus: MemoryBus, what: Any, run_id: str = "run", timeout_s: float = 20.0) -> None:
    """Wait until a fact like that was told about the run."""

    async def watch() -> None:
        while not any(what(event) for event in await facts(bus, run_id)):  # noqa: ASYNC110
            await asyncio.sleep(0.02)

    await asyncio.wait_for(watch(), timeout_s)


def is_final(event: Event) -> bool:
    return isinstance(event, StepSaved) and event.final


def finished(told: Sequence[Event]) -> dict[int, StepFinished]:
    return {event.step: event for event in told if isinstance(event, StepFinished)}


async def train(
    make: Any, spec: RunSpec, groups: Sequence[GroupScored], **settings: Any
) -> tuple[MemoryBus, list[Event]]:
    """A whole run, undisturbed."""
    bus = MemoryBus()
    await store_spec(bus, spec)
    await bus.publish(*groups)
    await bus.listen(*learner_on(bus, Base(make.random_qwen3(), "random"), **settings).subscriptions())
    await bus.publish(make.started(spec, steps=STEPS))
    await until(bus, lambda event: is_final(event) or isinstance(event, TrainingFailed))
    told = await facts(bus)
    await bus.close()
    return bus, told


async def hear(learner: Learner, bus: MemoryBus, event: RunStarted, *, until_step: int | None = None) -> list[Event]:
    """What the bus does with a lasting handler; stops after a step was told, as a kill between two words does."""
    said = []
    told = learner.on_run_started(event)
    async for fact in told:
        await bus.publish(fact)
        said.append(fact)
        if isinstance(fact, StepFinished) and fact.step == until_step:
            await told.aclose()  # type: ignore[attr-defined]
            break
    return said


async def test_a_run_is_claimed_trained_saved_and_done(make: Any) -> None:
    bus, told = await train(make, make.spec(), groups_of(make))

    assert isinstance(told[0], StepClaimed)
    assert list(finished(told)) == [0, 1, 2, 3, 4]
    assert is_final(told[-1])
    last = finished(told)[4]
    assert await bus.store.get(f"{last.policy.key}/{WEIGHTS}")
    assert await bus.store.get(f"{last.policy.key}/{CONFIG}")
    assert last.policy.version == 4


async def test_every_step_names_its_groups_with_their_advantages_in_the_order_of_their_index(make: Any) -> None:
    _, told = await train(make, make.spec(), groups_of(make))

    first = finished(told)[1]
    assert [(group.group, group.advantages) for group in first.groups] == [(0, [0.5, -0.5]), (1, [-0.125, 0.125])]
    assert first.rollouts == 4
    assert {"reward", "reward_std", "loss", "grad_norm", "entropy", "frac_zero_std", "comp_len", "trunc", "lag"} <= set(
        first.metrics
    )


async def test_a_step_whose_rewards_are_all_alike_is_told_but_teaches_nothing(make: Any) -> None:
    _, told = await train(make, make.spec(), groups_of(make))

    before, flat = finished(told)[2], finished(told)[3]
    assert (flat.policy.digest, flat.policy.key) == (before.policy.digest, before.policy.key)
    assert flat.policy.version == 3
    assert flat.metrics["grad_norm"] == 0.0
    assert (flat.faults, [fault.kind for fault in flat.fault_samples]) == (1, ["raised"])
    assert finished(told)[4].policy.digest != flat.policy.digest


async def test_the_order_in_which_groups_arrive_does_not_matter(make: Any) -> None:
    _, one = await train(make, make.spec(), groups_of(make))
    _, other = await train(make, make.spec(), sorted(groups_of(make), key=lambda group: (group.group, -group.step)))

    assert finished(one)[4].policy == finished(other)[4].policy


@pytest.mark.parametrize("killed_after", [0, 1, 2, 3, 4])
async def test_a_run_taken_over_ends_with_the_adapter_of_an_undisturbed_one(make: Any, killed_after: int) -> None:
    spec = make.spec(save_every=2)
    _, undisturbed = await train(make, spec, groups_of(make))
    bus = MemoryBus()
    await store_spec(bus, spec)
    await bus.publish(*groups_of(make))
    event = make.started(spec, steps=STEPS)

    before = await hear(learner_on(bus, Base(make.random_qwen3(), "random")), bus, event, until_step=killed_after)
    after = await hear(learner_on(bus, Base(make.random_qwen3(), "random"), "two"), bus, event)

    told = [*before, *after]
    assert [event.step for event in told if isinstance(event, StepFinished)] == [0, 1, 2, 3, 4]
    assert [event.attempt for event in told if isinstance(event, StepClaimed)] == [1, 2]
    assert finished(told)[4].policy == finished(undisturbed)[4].policy
    assert is_final(after[-1])
    assert not any(isinstance(event, StepDiverged) for event in after)


async def test_who_takes_over_replays_recorded_steps_from_the_newest_checkpoint(make: Any) -> None:
    spec = make.spec(save_every=1)
    _, undisturbed = await train(make, spec, groups_of(make))
    bus = MemoryBus()
    await store_spec(bus, spec)
    await bus.publish(*groups_of(make))
    event = make.started(spec, steps=STEPS)
    told = learner_on(bus, Base(make.random_qwen3(), "random")).on_run_started(event)
    async for fact in told:
        if isinstance(fact, StepSaved) and fact.step > 1:
            continue  # died before these were told: the newest checkpoint known is step 1's
        await bus.publish(fact)
        if isinstance(fact, StepFinished) and fact.step == 3:
            break
    await told.aclose()  # type: ignore[attr-defined]
    assert [event.step for event in await facts(bus) if isinstance(event, StepSaved)] == [1]

    after = await hear(learner_on(bus, Base(make.random_qwen3(), "random"), "two"), bus, event)

    assert list(finished(after)) == [4]
    assert finished(after)[4].policy == finished(undisturbed)[4].policy
    checkpoint = "runs/run/checkpoints/step-4"
    assert digest_of({WEIGHTS: await bus.store.get(f"{checkpoint}/{WEIGHTS}")}) == finished(after)[4].policy.digest


async def test_a_damaged_checkpoint_is_passed_over(make: Any) -> None:
    spec = make.spec(save_every=1)
    bus, told = await train(make, spec, groups_of(make))
    for step in (3, 4):
        await bus.store.put(f"runs/run/checkpoints/step-{step}/{WEIGHTS}", b"rust")

    after = await hear(
        learner_on(bus, Base(make.random_qwen3(), "random"), "two"), bus, make.started(spec, steps=STEPS)
    )

    assert [type(event) for event in after] == [StepClaimed]
    stored = await bus.store.get(f"runs/run/checkpoints/step-4/{WEIGHTS}")
    assert digest_of({WEIGHTS: stored}) == finished(told)[4].policy.digest


async def test_groups_that_have_left_the_stream_are_not_needed_behind_a_checkpoint(make: Any) -> None:
    spec = make.spec(save_every=1)
    _, undisturbed = await train(make, spec, groups_of(make))
    bus = MemoryBus()
    await store_spec(bus, spec)
    await bus.publish(*groups_of(make, steps=3))
    event = make.started(spec, steps=STEPS)
    before = asyncio.create_task(hear(learner_on(bus, Base(make.random_qwen3(), "random")), bus, event))
    await until(bus, lambda event: isinstance(event, StepSaved) and event.step == 2)
    before.cancel()
    await asyncio.wait({before})

    await bus.forget(GroupScored.pattern(run_id="run"), before=5)
    await bus.publish(*groups_of(make)[6:])
    after = await hear(learner_on(bus, Base(make.random_qwen3(), "random"), "two"), bus, event)

    assert finished(after)[4].policy == finished(undisturbed)[4].policy


async def test_a_run_whose_checkpoints_are_lost_and_whose_groups_have_left_the_stream_fails_and_says_so(
    make: Any,
) -> None:
    spec = make.spec(save_every=1)
    bus, _ = await train(make, spec, groups_of(make))
    for step in (2, 3, 4):
        await bus.store.put(f"runs/run/checkpoints/step-{step}/{WEIGHTS}", b"rust")
    await bus.forget(GroupScored.pattern(run_id="run"), before=4)

    said = await hear(learner_on(bus, Base(make.random_qwen3(), "random"), "two"), bus, make.started(spec, steps=STEPS))

    assert isinstance(said[-1], TrainingFailed)
    assert "step 2 would have to be done again" in said[-1].reason


async def test_a_replay_obeys_the_cut_and_the_threads_that_were_noted(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = make.spec(save_every=10)
    bus, told = await train(make, spec, groups_of(make), max_tokens_per_forward=16)
    await bus.store.delete("runs/run/checkpoints/step-4/manifest.json")
    cuts, update = [], Policy.update

    def watched(self: Policy, *given: Any, **named: Any) -> Any:
        cuts.append((named["cut"].max_tokens, named["cut"].threads))
        return update(self, *given, **named)

    monkeypatch.setattr(Policy, "update", watched)
    other = learner_on(bus, Base(make.random_qwen3(), "random"), "two", max_tokens_per_forward=512, threads=2)
    after = await hear(other, bus, make.started(spec, steps=STEPS))

    assert finished(told)[1].micro_batch == 16
    assert cuts == [(16, 1)] * 3
    assert [type(event) for event in after] == [StepClaimed]


async def test_a_replay_that_gives_another_adapter_says_so_and_goes_on_from_its_own(make: Any) -> None:
    spec = make.spec(save_every=10)
    bus = MemoryBus()
    await store_spec(bus, spec)
    await bus.publish(*groups_of(make))
    elsewhere = PolicyRef(version=1, key="runs/run/adapters/x", digest="x")
    address = {"org": "local", "run_id": "run", "attempt": 1}
    await bus.publish(StepClaimed(**address, learner="gpu"), StepFinished(**address, step=1, policy=elsewhere))

    after = await hear(learner_on(bus, Base(make.random_qwen3(), "random")), bus, make.started(spec, steps=STEPS))

    (diverged,) = [event for event in after if isinstance(event, StepDiverged)]
    assert (diverged.step, diverged.recorded, diverged.attempt) == (1, elsewhere, 2)
    assert await bus.store.get(f"{diverged.policy.key}/{WEIGHTS}")
    assert list(finished(after)) == [0, 2, 3, 4]


async def test_a_zombie_that_wakes_falls_silent_and_its_run_ends_as_if_it_had_slept_on(make: Any) -> None:
    spec = make.spec()
    _, undisturbed = await train(make, spec, groups_of(make))
    clock = HandMovedClock()
    bus = MemoryBus(stream=MemoryStream(clock=clock))
    await store_spec(bus, spec)
    await bus.publish(*groups_of(make, steps=2))
    zombie, heir = bus.replica("learner:zombie"), bus.replica("learner:heir")
    await zombie.listen(*learner_on(zombie, Base(make.random_qwen3(), "random"), "zombie").subscriptions())
    await bus.publish(make.started(spec, steps=STEPS))
    await until(bus, lambda event: isinstance(event, StepSaved) and event.step == 2)

    zombie.freeze()
    await heir.listen(*learner_on(heir, Base(make.random_qwen3(), "random"), "heir").subscriptions())
    clock.advance(60)
    await until(bus, lambda event: isinstance(event, StepClaimed) and event.attempt == 2)
    await bus.publish(*groups_of(make))
    await until(bus, is_final)
    await asyncio.sleep(0.3)

    told = await facts(bus)
    assert list(finished(told)) == [0, 1, 2, 3, 4]
    assert {event.step: event.attempt for event in finished(told).values()} == {0: 1, 1: 1, 2: 1, 3: 2, 4: 2}
    assert finished(told)[4].policy == finished(undisturbed)[4].policy
    for replica in (zombie, heir):
        await replica.close(0)


@pytest.mark.parametrize("kind", [RunCancelRequested, RunCancelled])
async def test_a_cancelled_run_is_left_within_a_second_also_while_it_waits_for_groups(
    make: Any, kind: type[Any]
) -> None:
    bus, base, spec = MemoryBus(), Base(make.random_qwen3(), "random"), make.spec()
    await store_spec(bus, spec)
    learner = learner_on(bus, base)
    await bus.listen(*learner.subscriptions())
    await bus.publish(make.started(spec, steps=STEPS))
    await until(bus, lambda event: isinstance(event, StepFinished))

    began = time.monotonic()
    await bus.publish(kind(org="local", run_id="run"))
    while learner._at_work:  # noqa: ASYNC110
        await asyncio.sleep(0.01)

    assert time.monotonic() - began < 1.0
    assert not [name for name, _ in base.model.named_parameters() if "lora" in name]
    assert (await bus.pools())[0].in_progress == 0
    await bus.close()


async def test_a_run_that_is_over_already_is_not_touched(make: Any) -> None:
    bus, spec = MemoryBus(), make.spec()
    await bus.publish(RunCancelled(org="local", run_id="run"))

    said = await hear(learner_on(bus, Base(make.random_qwen3(), "random")), bus, make.started(spec))

    assert said == []


async def test_the_attempt_that_a_resumed_run_has_left_is_not_touched_and_its_end_ends_no_later_one(make: Any) -> None:
    bus, spec = MemoryBus(), make.spec()
    await store_spec(bus, spec)
    await bus.publish(
        RunCancelled(org="local", run_id="run"), RunResumed(org="local", run_id="run", attempt=2, resumed_at=1.0),
        *groups_of(make),
    )  # fmt: skip
    learner = learner_on(bus, Base(make.random_qwen3(), "random"))
    first, second = (replace(make.started(spec, steps=STEPS), attempt=attempt) for attempt in (1, 2))

    assert await hear(learner, bus, first) == []
    said = []
    async for fact in learner.on_run_started(second):
        said.append(fact)
        await learner.on_run_ended(RunCancelled(org="local", run_id="run"))  # told late
    assert is_final(said[-1])


async def test_who_takes_a_run_again_says_why_it_lost_it(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    bus, spec = MemoryBus(retry_s=0.01), make.spec()
    await store_spec(bus, spec)
    await bus.publish(*groups_of(make))
    restart = Training.start
    lost: list[str] = []

    async def once_broken(self: Training) -> list[Event]:
        if not lost:
            lost.append("x")
            raise StoreError("the object store is away")
        return await restart(self)

    monkeypatch.setattr(Training, "start", once_broken)
    await bus.listen(*learner_on(bus, Base(make.random_qwen3(), "random")).subscriptions())
    await bus.publish(make.started(spec, steps=STEPS))
    await until(bus, is_final)
    claims = [event for event in await facts(bus) if isinstance(event, StepClaimed)]
    await bus.close()

    assert [claim.reason for claim in claims] == ["", "StoreError: the object store is away"]


async def test_an_evaluation_is_not_a_learners_business(make: Any) -> None:
    bus, spec = MemoryBus(), replace(make.spec(), algorithm="eval", train=None)
    await store_spec(bus, spec)

    assert await hear(learner_on(bus, Base(make.random_qwen3(), "random")), bus, make.started(spec)) == []


async def test_a_run_starts_from_the_adapter_it_names(make: Any) -> None:
    bus, base = MemoryBus(), Base(make.random_qwen3(), "random")
    files = make.stir(base.fresh(rank=2, alpha=4, seed=9)).files()
    for name, data in files.items():
        await bus.store.put(f"runs/before/adapters/a/{name}", data)
    spec = make.spec(init_from_adapter=PolicyRef(version=7, key="runs/before/adapters/a", digest=digest_of(files)))
    await store_spec(bus, spec)

    said = await hear(learner_on(bus, base), bus, make.started(spec), until_step=0)

    start = said[1]
    assert isinstance(start, StepFinished)
    assert (start.policy.version, start.policy.digest) == (0, digest_of(files))
    assert await bus.store.get(f"{start.policy.key}/{WEIGHTS}") == files[WEIGHTS]


async def test_a_run_whose_start_cannot_be_had_fails_with_the_reason(make: Any) -> None:
    bus = MemoryBus()
    spec = make.spec(init_from_adapter=PolicyRef(version=7, key="runs/gone/adapters/a", digest="d"))
    await store_spec(bus, spec)

    said = await hear(learner_on(bus, Base(make.random_qwen3(), "random")), bus, make.started(spec))

    (failed,) = [event for event in said if isinstance(event, TrainingFailed)]
    assert "cannot be had" in failed.reason
    assert failed.attempt == 1


async def test_two_runs_on_one_base_alternate_and_end_as_each_would_alone(make: Any) -> None:
    specs = [make.spec(run_id=name) for name in ("run-a", "run-b")]
    _, alone = await train(make, make.spec(), groups_of(make))
    bus = MemoryBus()
    await bus.listen(*learner_on(bus, Base(make.random_qwen3(), "random")).subscriptions())
    for spec in specs:
        await store_spec(bus, spec)
        await bus.publish(*groups_of(make, run_id=spec.run_id))
    await bus.publish(*(make.started(spec, steps=STEPS) for spec in specs))
    for spec in specs:
        await until(bus, is_final, spec.run_id)

    ends = [finished(await facts(bus, spec.run_id))[4].policy.digest for spec in specs]
    order = [told.event.run_id async for told in bus.history(StepFinished.pattern())]  # type: ignore[attr-defined]
    assert ends == [finished(alone)[4].policy.digest] * 2
    assert set(order[2:6]) == {"run-a", "run-b"}
    await bus.close()


async def prepare(bus: MemoryBus, spec: RunSpec, lengths: Sequence[int]) -> None:
    examples = [
        Example(index=i, id=f"example_{i:06d}", input=str(n), completion=[{"role": "assistant", "content": "x"}])
        for i, n in enumerate(lengths)
    ]
    key = dataset_key(spec, 0)
    await bus.store.put(key, msgspec.msgpack.encode(examples))
    await store_spec(bus, spec)
    await bus.publish(DatasetPrepared(org="local", run_id="run", chunk=0, rows=len(examples), key=key))


async def test_sft_learns_from_gold_rows_and_lowers_its_loss(make: Any) -> None:
    bus, spec = MemoryBus(), make.spec("sft", batch_size=3, max_length=12)
    await prepare(bus, spec, [5, 6, 7, 8, 9, 10, 11, 20])

    said = await hear(learner_on(bus, Base(make.random_qwen3(), "random")), bus, make.started(spec, steps=9, rows=8))

    steps = finished(said)
    assert {"epoch", "loss", "grad_norm", "learning_rate", "tokens"} <= set(steps[1].metrics)
    assert [steps[step].metrics["epoch"] for step in (1, 3, 9)] == [3 / 8, 1.0, 3.0]
    assert steps[1].metrics["dropped"] == 1.0
    assert steps[9].metrics["loss"] < steps[1].metrics["loss"]
    assert is_final(said[-1])


async def test_sft_that_is_taken_over_ends_with_the_same_adapter(make: Any) -> None:
    async def run(kill: bool) -> str:
        bus, spec = MemoryBus(), make.spec("sft", batch_size=3, max_length=12, save_every=2)
        await prepare(bus, spec, [5, 6, 7, 8, 9, 10, 11, 20])
        event = make.started(spec, steps=6, rows=8)
        if kill:
            await hear(learner_on(bus, Base(make.random_qwen3(), "random")), bus, event, until_step=3)
        said = await hear(learner_on(bus, Base(make.random_qwen3(), "random"), "two"), bus, event)
        return finished(said)[6].policy.digest

    assert await run(kill=True) == await run(kill=False)


async def test_sft_without_a_row_that_fits_fails_and_names_the_limit(make: Any) -> None:
    bus, spec = MemoryBus(), make.spec("sft", max_length=4)
    await prepare(bus, spec, [20, 30])

    said = await hear(learner_on(bus, Base(make.random_qwen3(), "random")), bus, make.started(spec, rows=2))

    (failed,) = [event for event in said if isinstance(event, TrainingFailed)]
    assert "max_length = 4" in failed.reason


async def test_what_raises_unexpectedly_is_tried_again_by_the_bus(make: Any) -> None:
    bus, spec = MemoryBus(retry_s=0.01), make.spec()
    await bus.publish(*groups_of(make))
    await bus.listen(*learner_on(bus, Base(make.random_qwen3(), "random")).subscriptions())
    await bus.publish(make.started(spec, steps=STEPS))  # its spec is not in the store yet
    await asyncio.sleep(0.05)
    await store_spec(bus, spec)

    await until(bus, is_final)
    await bus.close()


async def test_the_learner_is_told_to_have_as_many_slots_as_runs_it_may_train(make: Any) -> None:
    learner = learner_on(MemoryBus(), Base(make.random_qwen3(), "random"), max_runs=3)

    (_, shared) = learner.subscriptions()

    assert (shared.slots, shared.max_deliveries, shared.name) == (3, 0, "learner-random")  # type: ignore[union-attr]
    assert learner.answers() == {}
