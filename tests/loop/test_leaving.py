"""Replicas leave while they are at work, and are told or are killed: nothing is lost, nothing counts twice."""

import asyncio
import json
import shutil
from collections import Counter
from pathlib import Path
from time import monotonic
from typing import Any

import msgspec
import pytest
from safetensors.torch import load_file, save_file

from flash.bus import Shared
from flash.client import pin, publish_environment
from flash.contracts.base import Event
from flash.contracts.groups import GroupGenerated, GroupRequested, GroupScored
from flash.contracts.keys import spec_key
from flash.contracts.spec import EnvironmentSpec, RunSpec, SamplingSpec
from flash.contracts.values import Example, PolicyRef
from flash.models import folder

GUESS = Path(__file__).parents[2] / "examples/guess"
GROUPS = 20
NOWHERE = EnvironmentSpec(id="local/e", version="v", digest="d", key="k")
ACK_WAIT_S = 10.0
"""How long the messages of a replica that was killed stay with it."""


async def played_run(stack: Any, run_id: str, environment: EnvironmentSpec = NOWHERE, **sampling: Any) -> None:
    """A run of which the test itself asks for groups."""
    knobs: dict[str, Any] = {"group_size": 8, "temperature": 5.0, "max_tokens": 400} | sampling
    spec = RunSpec(
        org="local", run_id=run_id, algorithm="grpo", model="tiny", pool="tiny", seed=7, split="train",
        environment=environment, sampling=SamplingSpec(**knobs),
    )  # fmt: skip
    await stack.store.put(spec_key(run_id), msgspec.json.encode(spec))


def requested(run_id: str, group: int, **example: Any) -> GroupRequested:
    fields = {"input": "say something", "messages": [{"role": "user", "content": "say something"}]} | example
    return GroupRequested(
        org="local", run_id=run_id, attempt=1, pool="tiny", scope="train", step=1, group=group,
        example=Example(index=group, id=f"e{group}", **fields), policy=PolicyRef(),
    )  # fmt: skip


async def at_work(stack: Any, count: int) -> None:
    """Waits until so many groups are in hand."""
    async with asyncio.timeout(30):
        while sum(p.in_progress for p in await stack.bus.pools() if p.name == "rollout-tiny") < count:
            pass


async def told(stack: Any, kind: type[Event], run_id: str, count: int) -> list[Any]:
    """The first `count` facts of a run, awaited, and whatever else there is by then."""
    pattern = kind.pattern(org="local", run_id=run_id)
    seen = 0
    async with asyncio.timeout(60):
        async for _ in stack.bus.replay(pattern):
            seen += 1
            if seen == count:
                break
    return [fact.event async for fact in stack.bus.history(pattern)]


class Heir:
    """Another replica of the pool, in this process, which plays at once."""

    def __init__(self) -> None:
        self.heard_at: list[float] = []

    def subscription(self) -> Shared:
        return Shared("rollout-tiny", GroupRequested, self.on_group_requested, where={"pool": "tiny"}, slots=GROUPS)

    async def on_group_requested(self, event: GroupRequested) -> list[Event]:
        self.heard_at.append(monotonic())
        named = ("org", "run_id", "attempt", "scope", "step", "group", "example", "policy")
        fields = {name: getattr(event, name) for name in named}
        return [GroupGenerated(**fields, prompt_ids=b"", rollouts=[], replica="heir")]


@pytest.mark.slow
async def test_a_rollout_that_leaves_with_twenty_groups_in_hand_loses_none(stacks: Any, tmp_path: Path) -> None:
    async with stacks(tmp_path, "hub") as stack:
        await stack.run("rollout", FLASH_SLOTS=str(GROUPS))
        await stack.there("rollout-1")
        await played_run(stack, "r1")
        await stack.bus.publish(*(requested("r1", group) for group in range(GROUPS)))
        await at_work(stack, GROUPS)
        heir = Heir()
        await stack.bus.listen(heir.subscription())

        began = monotonic()
        assert await stack.leave("rollout-1") == 0
        took_s = monotonic() - began
        generated = await told(stack, GroupGenerated, "r1", GROUPS)

    assert took_s < 15
    assert heir.heard_at[0] - began < 1
    assert sorted(each.group for each in generated) == list(range(GROUPS))
    by = Counter(each.replica for each in generated)
    assert by["heir"] == len(heir.heard_at) > 0


@pytest.mark.long
async def test_what_a_killed_rollout_held_goes_to_the_others(stacks: Any, tmp_path: Path) -> None:
    async with stacks(tmp_path, "hub") as stack:
        await stack.run("rollout", FLASH_SLOTS=str(GROUPS))
        await stack.there("rollout-1")
        await played_run(stack, "r1")
        await stack.bus.publish(*(requested("r1", group) for group in range(GROUPS)))
        await at_work(stack, GROUPS)
        heir = Heir()
        await stack.bus.listen(heir.subscription())

        began = monotonic()
        await stack.end("rollout-1")
        generated = await told(stack, GroupGenerated, "r1", GROUPS)

    assert heir.heard_at[0] - began < ACK_WAIT_S + 2
    assert sorted(each.group for each in generated) == list(range(GROUPS))


@pytest.mark.slow
async def test_episodes_go_on_when_a_rollout_and_a_scorer_that_play_them_leave(stacks: Any, tmp_path: Path) -> None:
    async with stacks(tmp_path, "hub", "scorer") as stack:
        await stack.run("scorer", "scorer-2")
        for name in ("rollout-1", "rollout-2"):
            await stack.run("rollout", name, FLASH_EPISODE_RENEW_S="1")
        await publish_environment(stack.bus, GUESS, "guess")
        version = await pin(stack.bus, "local/guess")
        environment = EnvironmentSpec(
            id=version.id, version=version.version, digest=version.digest, key=version.key
        )  # fmt: skip
        await played_run(stack, "r1", environment, group_size=2, max_tokens=48)
        await stack.there("rollout-1", "rollout-2", "scorer-1", "scorer-2")
        await stack.bus.publish(*(requested("r1", group, **row) for group, row in enumerate(rows(GROUPS))))
        await told(stack, GroupGenerated, "r1", 1)  # by now the others are in the middle of their games

        began = monotonic()
        codes = await asyncio.gather(stack.leave("rollout-1"), stack.leave("scorer-1"))
        took_s = monotonic() - began
        scored = await told(stack, GroupScored, "r1", GROUPS)
        generated = [fact.event async for fact in stack.bus.history(GroupGenerated.pattern())]

    assert (codes, took_s < 15) == ([0, 0], True)
    assert sorted(each.group for each in generated) == sorted(each.group for each in scored) == list(range(GROUPS))
    assert {verdict.fault for each in scored for verdict in each.verdicts} == {None}


@pytest.mark.slow
async def test_a_rollout_that_cannot_generate_is_never_ready_and_says_why(stacks: Any, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(folder("tiny", tmp_path), broken)
    weights = load_file(broken / "model.safetensors")
    save_file({name: weight * float("nan") for name, weight in weights.items()}, broken / "model.safetensors")

    async with stacks(tmp_path, "hub") as stack:
        await stack.run("rollout", "rollout-1", FLASH_MODEL=str(broken))
        seen = set()
        async with asyncio.timeout(60):
            while "cannot generate here" not in stack.logs("rollout-1"):
                seen |= {(r.id, r.is_ready) for r in await stack.bus.replicas(wait_s=0.2, announced=True)}
        last = stack.logs("rollout-1").splitlines()[-1]

    assert ("rollout-1", True) not in seen
    assert ("rollout-1", False) in seen
    assert "probabilities that are not finite" in last


def rows(count: int) -> list[dict[str, Any]]:
    """Of the example, as a scorer renders them."""
    lines = (GUESS / "dataset/train.jsonl").read_text().splitlines()
    found = [json.loads(lines[index % len(lines)]) for index in range(count)]
    return [
        {"input": row["input"], "output": row["output"], "metadata": row["metadata"], "record": row, "max_turns": 6}
        for row in found
    ]
