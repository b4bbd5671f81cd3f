"""A scorer that works for long takes no more memory for it."""

import asyncio
import gc
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest

from flash.artifacts import pack
from flash.bus.memory import MemoryBus
from flash.contracts.groups import GroupGenerated
from flash.contracts.keys import spec_key
from flash.contracts.spec import EnvironmentSpec, RunSpec
from flash.contracts.values import Example, PolicyRef, Rollout
from flash.host.sandbox import private_bytes
from services.scorer.service import Scorer
from services.scorer.settings import Settings

pytestmark = [pytest.mark.slow, pytest.mark.long]

GROUPS, ENVIRONMENTS, VISITS = 10_000, 50, 4
MAX_BYTES = 256 << 20
CODE = """
from envsdk import EnvironmentSingleTurn, RewardResult
class Env(EnvironmentSingleTurn):
    def build_prompt_messages(self, example, prompt_text): return [{"role": "user", "content": example.input}]
    def score_response(self, example, text): return RewardResult(float(len(text) == NUMBER), metadata={"seen": text})
def load_environment(): return Env()
"""


async def test_ten_thousand_groups_over_fifty_environments(tmp_path: Path) -> None:
    bus = MemoryBus()
    settings = Settings(home=tmp_path / "home", max_hosts=6, max_hosts_bytes=MAX_BYTES, live_cache_s=1e9)
    scorer = Scorer(bus, bus.store, settings)
    for number in range(ENVIRONMENTS):
        await submit(bus, tmp_path, number)
    taken: list[tuple[int, int]] = []
    done = 0
    try:
        for visit in range(VISITS):
            for number in range(ENVIRONMENTS):
                count = GROUPS // ENVIRONMENTS // VISITS
                for first in range(0, count, 5):
                    events = [group(number, visit * count + first + at) for at in range(min(5, count - first))]
                    scored: Any = await asyncio.gather(*map(scorer.on_group_generated, events))
                    assert all(told.verdicts[0].reward == float(number == 3) for [told] in scored)
                done += count
                gc.collect()
                taken.append((done, private_bytes(os.getpid())))
    finally:
        await scorer.close()
        await bus.close(0.1)
    late = taken[len(taken) // 3 :]
    print(f"slope {slope(late) / (1 << 20):.3f} MiB per 1,000 groups, most {max(b for _, b in late) >> 20} MiB")

    assert done == GROUPS
    assert slope(late) < 1 << 20
    assert max(taken_bytes for _, taken_bytes in late) < MAX_BYTES + (512 << 20)


def slope(points: list[tuple[int, int]]) -> float:
    """Bytes per 1,000 groups, by least squares."""
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    return 1_000 * sum((x - mean_x) * (y - mean_y) for x, y in points) / spread


async def submit(bus: MemoryBus, folder: Path, number: int) -> None:
    root = folder / f"env-{number}"
    root.mkdir()
    (root / "environment.py").write_text(CODE.replace("NUMBER", str(number)))
    packed = await asyncio.to_thread(pack, root)
    version = packed.digest[:12]
    await bus.store.put(f"environments/local/e{number}/{version}", packed.data)
    environment = EnvironmentSpec(
        id=f"local/e{number}", version=version, digest=packed.digest, key=f"environments/local/e{number}/{version}"
    )
    spec = RunSpec(
        org="local", run_id=f"r{number}", algorithm="grpo", model="tiny", pool="tiny", seed=1, split="train",
        environment=environment,
    )  # fmt: skip
    await bus.store.put(spec_key(f"r{number}"), msgspec.json.encode(spec))


def group(number: int, at: int) -> GroupGenerated:
    rollouts = [Rollout(text="abc", token_ids=b"\2\0\0\0", logprobs=b"\0\0\0\0", mask=b"\1") for _ in range(8)]
    example = Example(index=0, id="example_000000", input="q", record={"input": "q"})
    return GroupGenerated(
        org="local", run_id=f"r{number}", scope="train", step=1, group=at, example=example, policy=PolicyRef(),
        prompt_ids=b"\1\0\0\0", rollouts=rollouts,
    )  # fmt: skip
