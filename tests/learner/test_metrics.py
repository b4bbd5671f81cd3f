"""What the groups of a step say about the policy, episodes of several turns included."""

from typing import Any

import msgspec
import pytest

from flash.contracts.groups import GroupScored
from flash.contracts.packing import pack_floats, pack_ids
from flash.contracts.values import Example, Fault, PolicyRef, Rollout, Turn, Verdict
from services.learner import metrics
from services.learner.batch import group_batch


def group(*rollouts: tuple[list[int], float, dict[str, Any]]) -> GroupScored:
    """Rollouts given by the tokens of their turns, their reward, and the metadata beside it. Between turns stands one
    token of the environment's."""

    def rollout(turns: list[int]) -> Rollout:
        mask = b"\0".join(b"\1" * tokens for tokens in turns)
        return Rollout(
            token_ids=pack_ids(range(len(mask))), logprobs=pack_floats([-1.0] * len(mask)), mask=mask,
            turns=[Turn(tokens=tokens, finish_reason="stop") for tokens in turns],
        )  # fmt: skip

    return GroupScored(
        org="local", run_id="r1", scope="train", step=1, group=0, example=Example(index=0, id="e", input="q"),
        policy=PolicyRef(), prompt_ids=pack_ids([1, 2]), rollouts=[rollout(turns) for turns, _, _ in rollouts],
        verdicts=[Verdict(reward=reward, metadata=metadata) for _, reward, metadata in rollouts],
    )  # fmt: skip


def of(scored: GroupScored) -> dict[str, float]:
    return metrics.of_groups([scored], group_batch([scored], masks_truncated=True), step=1)


def test_turns_are_counted_and_only_the_policys_tokens_are_long() -> None:
    figures = of(group(([2, 4], 1.0, {}), ([3], 0.0, {})))

    assert (figures["turns"], figures["turn_len"], figures["comp_len"]) == (1.5, 3.0, 4.5)


def test_a_score_that_comes_with_an_error_counts_and_so_does_the_error() -> None:
    scored = group(([1], 1.0, {}), ([1], 0.0, {}), ([1], 0.0, {}))
    with_error, faulted = Verdict(reward=0.0, error="no file"), Verdict(fault=Fault(kind="raised", message="x"))

    figures = of(msgspec.structs.replace(scored, verdicts=[scored.verdicts[0], with_error, faulted]))

    assert (figures["reward"], figures["error_rate"]) == (0.5, 0.5)


def test_what_each_turn_was_worth_is_averaged_over_the_rollouts_that_came_so_far() -> None:
    figures = of(group(([1, 1], 1.0, {"per_turn_rewards": [1.0, 0.5]}), ([1], 0.0, {"per_turn_rewards": [0.0]})))

    assert (figures["per_turn/1"], figures["per_turn/2"]) == (0.5, 0.5)


@pytest.mark.parametrize("odd", ["much", [1.0, "x"], [float("nan")], {"1": 1.0}, None])
def test_a_worth_of_turns_that_is_no_list_of_numbers_is_left_out(odd: Any) -> None:
    figures = of(group(([1], 1.0, {"per_turn_rewards": odd}), ([1], 0.0, {})))

    assert not any(name.startswith("per_turn") for name in figures)


def test_a_group_of_single_turns_has_no_turns_to_count() -> None:
    assert "turns" not in of(group(([], 1.0, {}), ([], 0.0, {})))


def test_tokens_of_the_environment_are_no_targets_wherever_they_stand() -> None:
    scored = group(([2, 2], 1.0, {}), ([3], 0.0, {}))

    [tree] = group_batch([scored], masks_truncated=True).trees

    assert [list(answer.mask_T) for answer in tree.answers] == [[1, 1, 0, 1, 1], [1, 1, 1]]
