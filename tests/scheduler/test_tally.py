"""Counting an evaluation: services/scheduler/tally.py."""

from flash.contracts.groups import GroupScored
from flash.contracts.values import Example, Fault, PolicyRef, Rollout, Verdict
from services.scheduler.tally import Tally


def test_faults_are_left_out_and_errors_that_the_environment_tells_of_are_counted() -> None:
    verdicts = [
        Verdict(reward=1.0, success=True),
        Verdict(reward=0.0, success=False, error="no file"),
        Verdict(fault=Fault(kind="raised", message="x")),
    ]
    group = GroupScored(
        org="local", run_id="r1", scope="eval", step=0, group=0, example=Example(index=0, id="e", input="q"),
        policy=PolicyRef(), prompt_ids=b"", rollouts=[Rollout(token_ids=b"", logprobs=b"", mask=b"")] * 3,
        verdicts=verdicts,
    )  # fmt: skip

    summary = Tally().plus(group).summary()

    assert (summary["reward"], summary["success"], summary["error_rate"]) == (0.5, 0.5, 0.5)
    assert (summary["rollouts"], summary["faults"]) == (3, 1)
