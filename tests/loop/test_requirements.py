"""Runs whose environment asks for packages, by the real services in one process."""

import asyncio
from pathlib import Path
from typing import Any

import msgspec

from flash.artifacts import pack
from flash.bus.memory import MemoryBus
from flash.contracts.groups import GroupScored
from flash.contracts.keys import environment_key
from flash.contracts.requests import RunSubmit
from flash.contracts.runs import RunCompleted, RunFailed
from flash.contracts.spec import EnvironmentSpec, RunSpec, SamplingSpec, TrainSpec
from tests.wheels import wheel

POLITE = """
from envsdk import EnvironmentSingleTurn
from greeting import worth

class Polite(EnvironmentSingleTurn):
    dataset = ["3 1 2", "2 1 3", "1 3 2", "3 2 1"]
    def build_prompt_messages(self, example, prompt_text):
        return [{"role": "user", "content": example.input}]
    def score_response(self, example, text):
        return worth(text)

def load_environment():
    return Polite()
"""
PACKAGE = {"greeting.py": "def worth(text):\n    return len(text) % 7\n"}


async def ended(bus: MemoryBus, folder: Path, run_id: str, *pip: str) -> RunCompleted | RunFailed:
    """The last word of a run with these requirements."""
    (folder / "environment.py").write_text(POLITE)
    packed = pack(folder / "environment.py")
    key = environment_key("local", "polite", packed.digest[:12])
    await bus.store.put(key, packed.data)
    spec = RunSpec(
        org="local", run_id=run_id, algorithm="grpo", model="tiny", pool="tiny", seed=7, split="train",
        environment=EnvironmentSpec(
            id="local/polite", version=packed.digest[:12], digest=packed.digest, key=key, pip=list(pip)
        ),
        sampling=SamplingSpec(group_size=4, temperature=1.0, max_tokens=8),
        train=TrainSpec(
            lora_rank=8, lora_alpha=16, learning_rate=1e-3, batch_size=4, max_length=128, save_every=2, steps=2
        ),
    )  # fmt: skip
    await bus.ask(RunSubmit(spec=spec))
    words = [kind.pattern(org="local", run_id=run_id) for kind in (RunCompleted, RunFailed)]
    async with asyncio.timeout(60):
        async for told in bus.replay(*words):
            assert isinstance(told.event, RunCompleted | RunFailed)
            return told.event
    raise AssertionError("a replay never ends")


async def test_a_run_trains_with_the_packages_it_asks_for(running: Any, index: Path, tmp_path: Path) -> None:
    wheel(index, "greeting", "1.0", PACKAGE)
    async with running(tmp_path) as bus:
        word = await ended(bus, tmp_path, "r1", "greeting==1.0")
        groups = [told.event async for told in bus.history(GroupScored.pattern())]

    assert isinstance(word, RunCompleted), word
    assert len(groups) == 8
    for group in groups:
        texts = [rollout.text for rollout in group.rollouts]
        assert [verdict.reward for verdict in group.verdicts] == [len(text) % 7 for text in texts]


async def test_a_run_whose_packages_cannot_be_installed_fails_with_the_installers_last_lines(
    running: Any, index: Path, tmp_path: Path
) -> None:
    wheel(index, "greeting", "1.0", PACKAGE)
    async with running(tmp_path) as bus:
        word = await ended(bus, tmp_path, "r1", "greeting==7.7")
        after = await ended(bus, tmp_path, "r2", "greeting==1.0")

    assert isinstance(word, RunFailed)
    assert word.reason.startswith("the dataset could not be prepared: environment.pip [greeting==7.7] cannot be inst")
    assert word.fault is not None
    assert "greeting==7.7" in word.fault.traceback
    assert isinstance(after, RunCompleted), msgspec.to_builtins(after)
