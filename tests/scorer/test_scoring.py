"""services/scorer/scoring.py."""

from flash.contracts.values import Fault, Rollout, Verdict
from services.scorer.scoring import shortened


def test_each_token_of_a_thought_takes_its_share_of_the_reward() -> None:
    fault = Fault(kind="raised", message="")
    rollouts = [Rollout(thinking_tokens=tokens) for tokens in (40, 0, None, 8)]
    verdicts = [Verdict(reward=1.0, success=True), Verdict(reward=0.5), Verdict(reward=0.5), Verdict(fault=fault)]

    found = shortened(rollouts, verdicts, 0.01)

    assert [verdict.reward for verdict in found] == [1.0 - 0.4, 0.5, 0.5, None]
    assert found[0].success
    assert shortened(rollouts, verdicts, 0.0) == verdicts
