"""An environment of the real `verifiers` package, trained on by the real services in one process."""

from pathlib import Path
from typing import Any

import pytest

from flash.contracts.packing import unpack_ids
from tests.tiny_runs import grpo, published, trained

PACKAGED = Path(__file__).parent / "packaged"


@pytest.mark.slow
@pytest.mark.parametrize("turns", [1, 3])
async def test_a_run_trains_on_a_package_that_knows_nothing_of_flash(
    running: Any, verifiers_set: Path, tmp_path: Path, turns: int
) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "requirements").symlink_to(verifiers_set.parent)
    async with running(tmp_path) as bus:
        environment = await published(bus, PACKAGED, params={"turns": turns}, pip=["verifiers==0.3.1"])
        steps, groups = await trained(bus, grpo(environment, max_tokens=6), within_s=240)

    assert [step.step for step in steps] == [0, 1, 2]
    assert steps[-1].policy.digest != steps[0].policy.digest
    assert groups
    for group in groups:
        assert group.example.messages == [{"role": "user", "content": group.example.input}]
        for rollout, verdict in zip(group.rollouts, group.verdicts, strict=True):
            said = [message["content"] for message in rollout.messages] if turns > 1 else [rollout.text]
            found = {metric.name: metric.score for metric in verdict.metrics}
            hits = sum(a == b for a, b in zip(said[0].split(), group.example.output.split(), strict=False))
            assert found["places"] == hits / 2
            assert found["cut"] == (rollout.finish_reason == "length")
            assert verdict.reward == pytest.approx(found["places"] + 0.25 * (len(said[0]) % 7))
            assert sum(rollout.mask) == sum(turn.tokens for turn in rollout.turns) if turns > 1 else True
            assert len(rollout.mask) == len(unpack_ids(rollout.token_ids))
            if turns > 1 and rollout.finish_reason != "length":
                assert said[1::2] == ["again 1", "again 2"]
                assert found["num_turns"] == 3.0
