"""An environment in the verifiers dialect, trained on by the real services in one process."""

from pathlib import Path
from typing import Any

import pytest

from tests.tiny_runs import grpo, published, trained

JUDGED = Path(__file__).parent / "judged"
GROUP = 4


async def test_a_run_trains_on_what_the_rubric_says_of_each_group(running: Any, tmp_path: Path) -> None:
    async with running(tmp_path) as bus:
        steps, groups = await trained(bus, grpo(await published(bus, JUDGED), max_tokens=8))

    assert [step.step for step in steps] == [0, 1, 2]
    assert steps[-1].policy.digest != steps[0].policy.digest
    assert len(groups) == 8
    for group in groups:
        assert group.example.messages == [{"role": "user", "content": group.example.input}]
        texts = [rollout.text for rollout in group.rollouts]
        for at, (text, verdict) in enumerate(zip(texts, group.verdicts, strict=True)):
            if not text.split():
                assert verdict.fault is not None
                assert verdict.fault.message.startswith("ZeroDivisionError")
                continue
            hits = sum(a == b for a, b in zip(text.split(), group.example.output.split(), strict=False))
            assert verdict.reward == pytest.approx(hits / 2 + 0.25 * (text not in texts[:at]))
            found = {metric.name: metric.score for metric in verdict.metrics}
            assert found == {
                "places": hits / 2, "first_said": float(text not in texts[:at]), "no_empty_answers": 0.0,
                "<lambda>": group.example.record["gap"],
            }  # fmt: skip
