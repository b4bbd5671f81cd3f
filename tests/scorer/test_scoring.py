"""services/scorer/scoring.py."""

from typing import Any

import pytest

from flash.contracts.values import Example, Fault, Rollout, Verdict
from services.scorer.scoring import prepared_rows, shortened


def test_each_token_of_a_thought_takes_its_share_of_the_reward() -> None:
    fault = Fault(kind="raised", message="")
    rollouts = [Rollout(thinking_tokens=tokens) for tokens in (40, 0, None, 8)]
    verdicts = [Verdict(reward=1.0, success=True), Verdict(reward=0.5), Verdict(reward=0.5), Verdict(fault=fault)]

    found = shortened(rollouts, verdicts, 0.01)

    assert [verdict.reward for verdict in found] == [1.0 - 0.4, 0.5, 0.5, None]
    assert found[0].success
    assert shortened(rollouts, verdicts, 0.0) == verdicts


@pytest.mark.parametrize(
    ("gold", "thinks"),
    [
        ([("assistant", "<think>so</think>4")], True),
        ([("assistant", "4")], False),
        ([("assistant", "<think>so 4")], False),
        ([("assistant", "<think>a</think>b"), ("user", "on"), ("assistant", "4")], False),
        ([("assistant", "a"), ("user", "<think></think>"), ("assistant", "<think>b</think>4")], True),
        ([("assistant", None)], False),
    ],
)
def test_a_gold_answer_that_holds_no_thought_is_named_where_the_run_thinks(gold: Any, thinks: bool) -> None:
    turns = [{"role": role, "content": text} for role, text in gold]
    rows = [Example(index=7, id="e7", input="q", completion=turns), Example(index=8, id="e8", input="q")]

    assert prepared_rows(rows, 2, thinking=True).thoughtless == ([] if thinks else [7])
    assert prepared_rows(rows, 2, thinking=False).thoughtless == []
