"""Runs whose environment asks for packages, by the real services in one process."""

from pathlib import Path
from typing import Any

import msgspec

from flash.bus.memory import MemoryBus
from flash.contracts.groups import GroupScored
from flash.contracts.runs import RunCompleted, RunFailed
from tests import tiny_runs
from tests.tiny_runs import grpo, published
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
    environment = await published(bus, folder / "environment.py", "polite", pip=list(pip))
    return await tiny_runs.ended(bus, grpo(environment, run_id=run_id, max_tokens=8))


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
