"""The classes that authors subclass."""

import threading
from collections.abc import Sequence
from dataclasses import FrozenInstanceError
from typing import Any

import pytest

from envsdk import (
    Dataset,
    EnvironmentEpisode,
    EnvironmentEvalSuite,
    EnvironmentMultiTurn,
    EnvironmentSingleTurn,
    EnvironmentStepResult,
    EnvironmentTurn,
    RewardMetric,
    RewardResult,
    TaskExample,
    load_dataset,
)

EXAMPLE = TaskExample(record={"input": "q"}, input="q", output="a")


class Sample(EnvironmentSingleTurn):
    opening: Sequence[dict[str, Any]] = ({"role": "user", "content": "q"},)

    def build_prompt_messages(self, example: TaskExample, prompt_text: str) -> list[dict[str, Any]]:
        return list(self.opening)

    def normalize_response_text(self, example: TaskExample, response_text: str) -> str:
        return response_text.strip()

    def score_response(self, example: TaskExample, response_text: str) -> RewardResult:
        return RewardResult(score=float(response_text == example.output), reason=threading.current_thread().name)


@pytest.mark.parametrize(
    ("result", "success"),
    [
        (RewardResult(0.0, success=True), True),
        (RewardResult(1.0, error="judge unsure"), False),
        (RewardResult(0.5, threshold=0.5), True),
        (RewardResult(0.4, threshold=0.5), False),
        (RewardResult(0.1), True),
        (RewardResult(0.0), False),
    ],
)
def test_success_is_what_the_author_says_else_the_threshold_else_above_zero(
    result: RewardResult, success: bool
) -> None:
    assert result.resolved_success() is success


def test_a_value_falls_back_to_success_or_score() -> None:
    assert RewardResult(0.5, value="x").resolved_value() == "x"
    assert RewardResult(0.5, return_type="binary").resolved_value() is True
    assert RewardResult(0.5).resolved_value() == 0.5


def test_values_are_frozen_and_have_the_defaults_of_the_original() -> None:
    result, metric, step = RewardResult(1.0), RewardMetric("m"), EnvironmentStepResult()

    assert (result.name, result.metrics, result.metadata, result.return_type) == (
        "environment_reward",
        (),
        {},
        "numeric",
    )
    assert (metric.score, metric.weight, step.done, step.messages) == (None, None, True, ())
    assert EnvironmentTurn("user", "hi", name="n").to_message() == {"role": "user", "content": "hi"}
    assert EnvironmentTurn("user", "hi").to_dict() == {"role": "user", "content": "hi", "name": None, "metadata": {}}
    with pytest.raises(FrozenInstanceError):
        result.score = 2.0  # type: ignore[misc]


def test_the_prompt_text_becomes_a_system_message_unless_there_is_one() -> None:
    env = Sample()

    assert env.start_episode(EXAMPLE, " be brief ")[0] == {"role": "system", "content": "be brief"}
    assert env.start_episode(EXAMPLE, "  ") == list(Sample.opening)
    env.opening = ({"role": "System", "content": "mine"},)
    assert env.start_episode(EXAMPLE, "be brief") == [{"role": "System", "content": "mine"}]


def test_a_group_is_normalised_and_scored_in_order_and_a_direct_call_is_not_normalised() -> None:
    env = Sample()

    scores = [result.score for result in env.score_responses(EXAMPLE, [" a ", "b", "a"])]

    assert scores == [1.0, 0.0, 1.0]
    assert env.score_response(EXAMPLE, " a ").score == 0.0


def test_a_serial_environment_scores_on_the_calling_thread() -> None:
    env = Sample()
    env.max_score_concurrency = 1

    names = {result.reason for result in env.score_responses(EXAMPLE, ["a", "b"])}

    assert names == {threading.current_thread().name}


def test_a_single_turn_is_done_after_its_first_step() -> None:
    step = Sample().step_episode(EXAMPLE, [], " a ")

    assert (step.done, step.final_response_text, Sample().max_episode_turns(EXAMPLE)) == (True, "a", 1)
    assert Sample().score_episode(EXAMPLE, EnvironmentEpisode((), "a")).score == 1.0
    assert [r.score for r in Sample().score_episodes(EXAMPLE, [EnvironmentEpisode((), " a ")])] == [1.0]


def test_the_text_of_a_message_is_found_in_dicts_objects_and_parts() -> None:
    env = Sample()
    parts = [{"type": "text", "text": "a"}, {"type": "image"}, {"type": "text", "text": "b"}]

    assert env.extract_response_text({"content": "a"}) == "a"
    assert env.extract_response_text(EnvironmentTurn("assistant", "a")) == "a"
    assert env.extract_response_text({"content": parts}) == "ab"
    assert env.extract_response_text({"content": None}) == ""


def test_a_multi_turn_environment_must_say_how_it_goes_on() -> None:
    with pytest.raises(TypeError, match="abstract"):
        EnvironmentMultiTurn()  # type: ignore[abstract]


def test_a_dataset_builds_the_conversations_of_sft() -> None:
    dataset = load_dataset([{"input": "q", "output": "a"}, {"input": "r"}])

    conversations = dataset[:1].build_conversations(Sample(), "sys")

    assert [turn["role"] for turn in conversations[0]] == ["system", "user", "assistant"]
    with pytest.raises(ValueError, match=r"row 2 .* no `output`"):
        dataset.build_conversations(Sample(), "")
    assert list(Dataset(dataset)) == list(dataset.examples)


def test_an_environment_wrapped_as_a_suite_scores_its_cases() -> None:
    suite = EnvironmentEvalSuite(Sample(), [{"input": "q", "output": "a"}])

    [case] = suite.cases()

    assert (suite.name, suite.score(case, " a ").score) == ("Sample", 1.0)
    with pytest.raises(TypeError, match="wanted an EnvironmentSingleTurn"):
        EnvironmentEvalSuite(object(), [])  # type: ignore[arg-type]
