"""What an author's code does wrong is data: typed, counted, shown; nothing hangs."""

from pathlib import Path
from typing import Any

import pytest

from flash.client import view
from flash.contracts.runs import RunCompleted, RunFailed

BODIES = {
    "raised": 'raise ValueError("no such word: " + response_text[:3])',
    "invalid-result": 'return float("nan")',
    "crashed": "import os; os._exit(3)",
    "timed-out": "import time; time.sleep(3600)",
}
ENVIRONMENT = """
import json
from pathlib import Path

from envsdk import EnvironmentSingleTurn

ROWS = (Path(__file__).parent / "dataset/train.jsonl").read_text().splitlines()


class Faulty(EnvironmentSingleTurn):
    dataset = [json.loads(line) for line in ROWS]

    def build_prompt_messages(self, example, prompt_text):
        return [{{"role": "user", "content": example.input}}]

    def score_response(self, example, response_text):
        if int(example.id[-1]) % 4 in {bad}:
            {body}
        return float(len(response_text) % 2)


def load_environment():
    return Faulty()
"""


def written(folder: Path, kind: str, *, always: bool) -> Path:
    (folder / "dataset").mkdir(parents=True)
    bad = (0, 1, 2, 3) if always else (0,)
    (folder / "environment.py").write_text(ENVIRONMENT.format(bad=bad, body=BODIES[kind]))
    rows = (Path(__file__).parent / "sorting/dataset/train.jsonl").read_text()
    (folder / "dataset/train.jsonl").write_text(rows)
    return folder


@pytest.mark.slow
async def test_each_kind_of_fault_is_typed_and_the_run_goes_on(stack: Any, tmp_path: Path) -> None:
    await stack.replace("scorer-1", FLASH_SCORE_TIMEOUT_S="0.5")
    for kind in BODIES:
        folder = written(tmp_path / kind, kind, always=False)
        await stack.train(f"run-{kind}", environment=folder, steps=3, max_faults=1.0)

    for kind in BODIES:
        assert isinstance(await stack.outcome(f"run-{kind}"), RunCompleted)
        verdicts = [verdict for group in await stack.groups(f"run-{kind}") for verdict in group.verdicts]
        assert {v.fault.kind for v in verdicts if v.fault} == {kind}
        assert all((v.reward is None) == (v.fault is not None) for v in verdicts)
        seen = await view(stack.bus, f"run-{kind}")
        assert seen.faults == sum(v.fault is not None for v in verdicts)
        assert {sample["kind"] for sample in seen.fault_samples} == {kind}
    seen = await view(stack.bus, "run-raised")
    assert 'ValueError("no such word' in seen.fault_samples[0]["traceback"]


@pytest.mark.slow
async def test_a_run_of_nothing_but_faults_fails_with_the_authors_traceback(stack: Any, tmp_path: Path) -> None:
    await stack.train("r1", environment=written(tmp_path / "raised", "raised", always=True))

    outcome = await stack.outcome("r1")

    assert isinstance(outcome, RunFailed)
    assert "48 of the last 48 rollouts were faults" in outcome.reason
    assert outcome.fault is not None
    assert "score_response" in outcome.fault.traceback
