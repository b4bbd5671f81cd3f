"""Rollout plays each group once, with the policy it should."""

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from flash.bus import Shared
from flash.contracts.groups import GroupCancelled, GroupGenerated, GroupRequested, GroupScored
from flash.contracts.keys import dataset_key
from flash.contracts.packing import unpack_floats, unpack_ids
from flash.contracts.preparing import DatasetMeasure
from flash.contracts.requests import Generate
from flash.contracts.runs import RunCancelled, RunCancelRequested, RunCompleted, RunFailed
from flash.contracts.spec import TrainSpec
from flash.contracts.steps import StepDiverged, StepFinished
from flash.contracts.values import Example, PolicyRef
from flash.errors import Refused
from services.rollout.engines import Adapter, GenerationFailed
from services.rollout.seeds import rollout_seed

TRAIN = TrainSpec(lora_rank=8, lora_alpha=16, learning_rate=1e-4, batch_size=4, max_length=5, save_every=5)
Requested = Callable[..., GroupRequested]
GENERATED = GroupGenerated.pattern()
SCORED = GroupScored.pattern()


def finished(policy: PolicyRef, **other: Any) -> StepFinished:
    return StepFinished(
        **{"org": "local", "run_id": "r1", "attempt": 1, "step": policy.version, "policy": policy, **other}
    )


async def test_a_group_is_played_as_the_run_says(world: Any, requested: Requested) -> None:
    await world.run(thinking=True)
    await world.bus.listen(*world.player.subscriptions())

    await world.bus.publish(requested(step=2, group=5))

    [generated] = await world.told(GENERATED)
    seeds = [rollout_seed(42, "train", 2, 5, i) for i in range(3)]
    assert (generated.step, generated.group, generated.example.input) == (2, 5, "2+2")
    assert unpack_ids(generated.prompt_ids) == [ord(letter) for letter in "2+2"]
    assert generated.prompt_opened
    assert [rollout.text for rollout in generated.rollouts] == [str(1 + seed % 9) * 3 for seed in seeds]
    assert unpack_ids(generated.rollouts[0].token_ids) == [1 + seeds[0] % 9] * 3 + [0]
    assert unpack_floats(generated.rollouts[0].logprobs) == [-0.5] * 4
    assert generated.rollouts[0].mask == b"\x01" * 4
    assert generated.replica == "rollout-1"
    [asked] = world.engine.asked
    assert (asked.temperature, asked.max_tokens, asked.stop, asked.adapter) == (0.5, 8, (".",), None)


async def test_an_answer_has_the_room_that_the_prompt_leaves_of_max_length(world: Any, requested: Requested) -> None:
    await world.run("r1", train=TRAIN)
    await world.run("r2", train=msgspec.structs.replace(TRAIN, max_length=3))
    await world.bus.listen(*world.player.subscriptions())

    await world.bus.publish(requested(), requested(run_id="r2"))

    played, full = sorted(await world.told(GENERATED, 2), key=lambda event: event.run_id)
    assert [asked.max_tokens for asked in world.engine.asked] == [5 - len("2+2")]
    assert all(rollout.fault is None for rollout in played.rollouts)
    assert {rollout.fault.message for rollout in full.rollouts} == {
        "the prompt has 3 tokens, and train.max_length = 3 leaves none"
    }


async def test_prepared_rows_are_measured_before_there_is_a_run(world: Any) -> None:
    spec = await world.run()
    rows = [Example(index=n, id="e", input="", messages=[{"role": "user", "content": "x" * n}]) for n in (1, 2, 3)]
    await world.store.put(dataset_key(spec, 0), msgspec.msgpack.encode(rows))
    await world.bus.answer("rollout", world.player.answers(), pool="tiny")

    found = await world.bus.ask(DatasetMeasure(pool="tiny", spec=spec, chunk=0, rows=2))

    assert found.tokens == [1, 2]


async def test_the_newest_policy_that_is_known_plays(world: Any, requested: Requested) -> None:
    await world.run()
    await world.bus.listen(*world.player.subscriptions())
    old, new = await world.adapter(3), await world.adapter(4)

    await world.player.on_policy(finished(new))
    await world.bus.publish(requested(step=5, policy=old), requested(step=6, policy=await world.adapter(5)))

    first, second = sorted(await world.told(GENERATED, 2), key=lambda generated: generated.step)
    assert first.policy == new
    assert second.policy.version == 5
    [adapter] = [asked.adapter for asked in world.engine.asked if asked.adapter.digest == new.digest]
    assert (adapter.folder / "adapter_model.safetensors").read_bytes() == b"weights r1 4"


async def test_an_evaluation_is_played_by_exactly_the_policy_it_names(world: Any, requested: Requested) -> None:
    await world.run()
    await world.bus.listen(*world.player.subscriptions())
    old = await world.adapter(3)

    await world.player.on_policy(finished(await world.adapter(9)))
    await world.bus.publish(requested(scope="eval", step=3, policy=old))

    [generated] = await world.told(GENERATED)
    assert generated.policy == old


async def test_a_step_that_came_out_otherwise_when_replayed_changes_the_policy(
    world: Any, requested: Requested
) -> None:
    await world.run()
    await world.bus.listen(*world.player.subscriptions())
    recorded, other = await world.adapter(3), await world.adapter(103)
    other = PolicyRef(version=3, key=other.key, digest=other.digest)

    await world.player.on_policy(finished(recorded))
    await world.player.on_policy(
        StepDiverged(org="local", run_id="r1", attempt=2, step=3, recorded=recorded, policy=other)
    )
    await world.bus.publish(requested(step=4, policy=PolicyRef(version=2)))

    [generated] = await world.told(GENERATED)
    assert generated.policy == other


async def test_a_new_policy_is_heard_by_every_replica(world: Any, requested: Requested) -> None:
    await world.run()
    policy = await world.adapter(1)
    [heard] = [each for each in world.player.subscriptions() if StepFinished in getattr(each, "events", ())]

    assert heard.events == (StepFinished, StepDiverged)
    await heard.handler(finished(policy))
    [generated] = await world.player.on_group_requested(requested(step=2))
    assert generated.policy == policy


async def test_the_adapter_of_a_new_policy_is_here_before_the_first_group_asks_for_it(
    world: Any, requested: Requested
) -> None:
    await world.run()
    await world.player.on_group_requested(requested(step=1))
    new, of_another_run = await world.adapter(1), await world.adapter(1, run_id="r2")

    await world.player.on_policy(finished(of_another_run, run_id="r2"))
    await world.player.on_policy(finished(new))

    async with asyncio.timeout(5):
        adapter = await world.engine.expected.get()
    assert adapter == Adapter(new.digest, world.folder / new.digest)
    assert adapter.folder.is_dir()
    assert not (world.folder / of_another_run.digest).exists()


async def test_a_policy_that_cannot_be_fetched_ahead_troubles_nobody(world: Any, requested: Requested) -> None:
    await world.run()
    await world.bus.listen(*world.player.subscriptions())
    await world.player.on_group_requested(requested(step=1))

    await world.player.on_policy(finished(PolicyRef(version=1, key="runs/r1/adapters/gone", digest="a" * 64)))
    await world.player.on_policy(finished(await world.adapter(2)))
    await world.engine.expected.get()
    await world.bus.publish(requested(step=3))

    [generated] = await world.told(GENERATED)
    assert generated.policy.version == 2


async def test_a_group_ends_with_the_policy_it_began_with_and_says_so(world: Any, requested: Requested) -> None:
    await world.run()
    await world.bus.listen(*world.player.subscriptions())
    old, new = await world.adapter(1), await world.adapter(2)
    await world.player.on_policy(finished(old))
    world.engine.gate.clear()
    await world.bus.publish(requested(step=3, group=0))
    await world.engine.asking.acquire()

    await world.player.on_policy(finished(new))
    await world.bus.publish(requested(step=3, group=1))
    await world.engine.asking.acquire()
    world.engine.gate.set()

    began, later = sorted(await world.told(GENERATED, 2), key=lambda generated: generated.group)
    assert (began.policy, later.policy) == (old, new)
    assert [asked.adapter.digest for asked in world.engine.asked] == [old.digest, new.digest]


async def test_a_group_that_was_played_is_not_played_again(world: Any, requested: Requested) -> None:
    await world.run()

    replies = await world.player.on_group_requested(requested())
    await world.bus.publish(*replies)
    again = await world.player.on_group_requested(requested())

    assert len(replies) == 1
    assert again == []
    assert len(world.engine.asked) == 1


async def test_what_an_attempt_that_is_over_left_unscored_is_told_again_and_not_played_again(
    world: Any, requested: Requested
) -> None:
    await world.run()
    [first] = await world.player.on_group_requested(requested())
    await world.bus.publish(first, RunCancelled(org="local", run_id="r1"))

    [again] = await world.player.on_group_requested(requested(attempt=2))

    assert again == msgspec.structs.replace(first, attempt=2)
    assert len(world.engine.asked) == 1
    await world.bus.publish(again)
    assert await world.player.on_group_requested(requested(attempt=2)) == []


async def test_the_same_request_gives_the_same_samples(world: Any, requested: Requested) -> None:
    await world.run()

    [first] = await world.player.on_group_requested(requested())
    [second] = await world.player.on_group_requested(requested())

    assert first.rollouts == second.rollouts


async def test_a_group_of_a_finished_step_is_dropped(world: Any, requested: Requested) -> None:
    await world.run()
    await world.player.on_policy(finished(await world.adapter(4)))

    assert await world.player.on_group_requested(requested(step=4)) == []
    assert world.engine.asked == []


@pytest.mark.parametrize("end", [RunCancelRequested, RunCancelled, RunCompleted, RunFailed])
async def test_a_run_that_is_over_is_played_no_more(world: Any, requested: Requested, end: Any) -> None:
    await world.run()
    await world.bus.publish(end(org="local", run_id="r1", **({"reason": "x"} if end is RunFailed else {})))

    [dropped] = await world.player.on_group_requested(requested())  # said before this replica listened
    assert (type(dropped), dropped.attempt, dropped.group_id) == (GroupCancelled, 1, requested().group_id)
    assert world.engine.asked == []


async def test_a_run_that_ends_frees_the_engine_at_once_and_others_go_on(world: Any, requested: Requested) -> None:
    await world.run()
    await world.run("r2")
    await world.bus.listen(*world.player.subscriptions())
    world.engine.gate.clear()
    await world.bus.publish(requested(group=0), requested(group=1), requested(run_id="r2"))
    async with asyncio.timeout(5):
        for _ in range(3):
            await world.engine.asking.acquire()

    await world.bus.publish(RunCancelRequested(org="local", run_id="r1"))
    async with asyncio.timeout(5):
        for _ in range(2):
            await world.engine.cancelled.acquire()
    world.engine.gate.set()

    [generated] = await world.told(GENERATED)
    assert generated.run_id == "r2"
    [pool] = [pool for pool in await world.bus.pools() if pool.name == "rollout-tiny"]
    assert (pool.waiting, pool.in_progress) == (0, 0)


async def test_a_prompt_that_leaves_no_room_is_a_fault_of_every_rollout(world: Any, requested: Requested) -> None:
    await world.run()
    long = Example(index=0, id="e0", input="", messages=[{"role": "user", "content": "x" * 99}])

    [generated] = await world.player.on_group_requested(requested(example=long))

    assert len(generated.rollouts) == 3
    for rollout in generated.rollouts:
        assert rollout.finish_reason == "fault"
        assert rollout.fault.kind == "generation-failed"
        assert "context is 16" in rollout.fault.message


async def test_a_policy_that_cannot_answer_is_a_fault_of_every_rollout(world: Any, requested: Requested) -> None:
    await world.run()
    world.engine.fails = lambda: GenerationFailed("adapter abc gives probabilities that are not finite")

    [generated] = await world.player.on_group_requested(requested())

    assert {rollout.fault.kind for rollout in generated.rollouts} == {"generation-failed"}


async def test_a_group_that_fails_again_and_again_is_given_up_as_scored(world: Any, requested: Requested) -> None:
    await world.run()
    world.engine.fails = lambda: RuntimeError("out of memory")
    await world.bus.listen(*world.player.subscriptions())

    await world.bus.publish(requested())

    [scored] = await world.told(SCORED)
    assert len(scored.rollouts) == len(scored.verdicts) == 3
    assert all("out of memory" in verdict.fault.message for verdict in scored.verdicts)
    assert len(world.engine.asked) == 5


async def test_a_conversation_is_answered_piece_by_piece(world: Any) -> None:
    await world.bus.answer("rollout", world.player.answers(), pool="tiny")
    policy = await world.adapter(1)

    request = Generate(pool="tiny", policy=policy, messages=[{"role": "user", "content": "hi"}], seed=4)
    pieces = [piece async for piece in world.bus.stream(request)]

    assert [piece.text for piece in pieces] == ["5", "5", "5", ""]
    assert (pieces[-1].finish_reason, pieces[-1].prompt_tokens, pieces[-1].completion_tokens) == ("stop", 2, 4)
    assert world.engine.asked[0].adapter.digest == policy.digest


async def test_a_conversation_that_cannot_be_answered_is_refused_with_the_reason(world: Any) -> None:
    await world.bus.answer("rollout", world.player.answers(), pool="tiny")

    request = Generate(pool="tiny", policy=PolicyRef(), messages=[{"role": "user", "content": "x" * 99}], seed=-1)

    with pytest.raises(Refused, match="context is 16"):
        [piece async for piece in world.bus.stream(request)]


async def test_the_pool_is_part_of_what_is_subscribed_to(world: Any) -> None:
    [shared] = [each for each in world.player.subscriptions() if isinstance(each, Shared)]

    assert (shared.name, shared.where, shared.slots) == ("rollout-tiny", {"pool": "tiny"}, 16)
