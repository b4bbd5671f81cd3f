"""What of a step's groups is taught, and what gold rows become."""

import math
from typing import Any

import pytest
from msgspec.structs import replace

from flash.contracts.packing import pack_floats, unpack_ids
from flash.contracts.values import Fault, Verdict
from services.learner import metrics
from services.learner.batch import conversation, faults, group_batch
from services.learner.failures import CannotTrain


def test_a_group_is_taught_whole_with_its_advantages(make: Any) -> None:
    group = make.scored(rewards=(1.0, 0.0, 0.0, 0.0))

    batch = group_batch([group], masks_truncated=True)

    assert batch.groups[0].advantages == [0.75, -0.25, -0.25, -0.25]
    assert [answer.advantage for answer in batch.trees[0].answers] == [0.75, -0.25, -0.25, -0.25]
    assert [list(answer.ids_T) for answer in batch.trees[0].answers] == [
        unpack_ids(r.token_ids) for r in group.rollouts
    ]
    assert list(batch.trees[0].prompt_ids) == unpack_ids(group.prompt_ids)


def test_a_fault_teaches_nothing_is_counted_and_leaves_the_mean_alone(make: Any) -> None:
    batch = group_batch([make.scored(rewards=(1.0, 0.0, None))], masks_truncated=True)

    assert batch.groups[0].advantages == [0.5, -0.5, 0.0]
    assert len(batch.trees[0].answers) == 2
    assert [fault.kind for fault in batch.faults] == ["raised"]
    assert batch.rollouts == 3


@pytest.mark.parametrize("reward", [math.nan, math.inf, None])
def test_a_rollout_without_a_number_is_a_fault_even_if_nobody_called_it_one(make: Any, reward: float | None) -> None:
    group = make.scored(rewards=(1.0, 0.0))
    group = replace(group, verdicts=[group.verdicts[0], Verdict(reward=reward)])

    (none, fault) = faults(group)

    assert none is None
    assert fault is not None
    assert fault.kind == "invalid-result"


def test_a_truncated_rollout_stands_in_the_mean_and_teaches_nothing(make: Any) -> None:
    group = make.scored(rewards=(1.0, 0.0, 0.0), finish=("stop", "stop", "length"))

    masked = group_batch([group], masks_truncated=True)
    kept = group_batch([group], masks_truncated=False)

    assert masked.groups[0].advantages == kept.groups[0].advantages == pytest.approx([2 / 3, -1 / 3, -1 / 3])
    assert [len(batch.trees[0].answers) for batch in (masked, kept)] == [2, 3]
    assert masked.rollouts == kept.rollouts == 3


def test_groups_without_variance_cost_nothing(make: Any) -> None:
    groups = [make.scored(0, (1.0, 1.0)), make.scored(1, (0.0, None)), make.scored(2, (None, None))]

    batch = group_batch(groups, masks_truncated=True)

    assert batch.trees == ()
    assert [group.advantages for group in batch.groups] == [[0.0, 0.0]] * 3


def test_a_rollout_that_does_not_add_up_can_never_be_trained(make: Any) -> None:
    group = make.scored(rewards=(1.0, 0.0))
    broken = replace(group.rollouts[0], logprobs=pack_floats([-1.0]))

    with pytest.raises(CannotTrain, match="train-1-0"):
        group_batch([replace(group, rollouts=[broken, group.rollouts[1]])], masks_truncated=True)


def test_a_gold_row_is_cut_at_max_length_and_dropped_when_nothing_to_learn_is_left() -> None:
    assert conversation([1, 2, 3, 4], [0, 0, 1, 1], 3).mask_T == [0, 0, 1]  # type: ignore[union-attr]
    assert conversation([1, 2, 3, 4], [0, 0, 1, 1], 2) is None
    assert conversation([1], [1], 5) is None  # nothing predicts the first token


def test_a_steps_metrics_are_those_of_its_groups(make: Any) -> None:
    groups = [
        make.scored(0, (1.0, 0.0), step=3, version=2, success=True),
        make.scored(1, (0.5, 0.5), step=3, version=1, finish=("length", "stop")),
        make.scored(2, (1.0, None), step=3, version=2),
    ]

    found = metrics.of_groups(groups, group_batch(groups, masks_truncated=True), step=3)

    assert found["reward"] == pytest.approx(3.0 / 5)
    assert found["reward_std"] == pytest.approx(0.5 / 3)
    assert found["frac_zero_std"] == pytest.approx(2 / 3)
    assert found["trunc"] == pytest.approx(1 / 6)
    assert found["lag"] == pytest.approx(1 / 3)
    assert (found["advantage_min"], found["advantage_max"]) == (-0.5, 0.5)
    assert found["success"] == 1.0


def test_named_metrics_are_averaged_over_the_rollouts_that_have_them(make: Any) -> None:
    from flash.contracts.values import Metric

    groups = [make.scored(0, (1.0, 0.0), metrics=[Metric(name="words", value=3), Metric(name="note", value="x")])]

    found = metrics.of_groups(groups, group_batch(groups, masks_truncated=True), step=1)

    assert found["metric/words"] == 3.0
    assert found["metric/words_std"] == 0.0
    assert "metric/note" not in found


def test_what_cannot_be_averaged_is_missing_not_zero(make: Any) -> None:
    groups = [make.scored(0, (None, None))]

    found = metrics.of_groups(groups, group_batch(groups, masks_truncated=True), step=1)

    assert "reward" not in found
    assert "success" not in found


def test_at_most_three_faults_are_shown_each_different() -> None:
    told = [Fault(kind="raised", message=message) for message in "aabcd"]

    assert [fault.message for fault in metrics.fault_samples(told)] == ["a", "b", "c"]
