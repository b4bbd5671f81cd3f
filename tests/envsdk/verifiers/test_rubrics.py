"""What answers earn in the verifiers dialect. Numbers by hand, or from the real package's documentation."""

import asyncio
import math
from typing import Any

import pytest

from envsdk import verifiers as vf
from envsdk.verifiers.errors import RewardError


def state(text: str = "hello", answer: str = "hello", **row: Any) -> vf.State:
    row = {"prompt": [vf.UserMessage(content="q")], "answer": answer, "info": {}, **row}
    completion = [vf.AssistantMessage(content=text)]
    return vf.State(input=row, completion=completion, task=row, trajectory=[], error=None, reward=None, metrics=None)


def alone(rubric: vf.Rubric, of: vf.State | None = None) -> vf.State:
    of = of or state()
    asyncio.run(rubric.score_rollout(of))
    return of


def together(rubric: vf.Rubric, *texts: str) -> list[vf.State]:
    states = [state(text) for text in texts]
    asyncio.run(rubric.score_group(states))
    return states


def exact(completion: Any, answer: str) -> float:
    return float(completion[-1]["content"] == answer)


async def length(completion: Any) -> int:
    return len(completion[-1].content)


def test_the_reward_is_the_weighted_sum_and_every_function_is_a_metric() -> None:
    scored = alone(vf.Rubric([exact, length], [1.0, 0.1]))

    assert scored["reward"] == 1.5
    assert scored["metrics"] == {"exact": 1.0, "length": 5.0}


def test_weights_are_one_each_unless_given_and_of_the_same_number() -> None:
    assert alone(vf.Rubric([exact, length]))["reward"] == 6.0
    with pytest.raises(ValueError, match="Number of weights"):
        vf.Rubric([exact, length], [1.0])


def test_functions_get_what_they_name() -> None:
    seen: dict[str, Any] = {}

    def some(
        prompt: Any, info: Any, state: Any, task: Any, parser: Any, difficulty: int, helper: str, x: int = 3
    ) -> int:
        seen.update(locals())
        return 1

    def everything(**kwargs: Any) -> int:
        seen["kwargs"] = kwargs.keys()
        return 1

    rubric = vf.Rubric([some, everything])
    rubric.add_class_object("helper", "help")
    of = state(difficulty=2, info={"a": 1})
    alone(rubric, of)

    assert seen["prompt"][0].content == "q"
    assert (seen["info"], seen["difficulty"], seen["helper"], seen["x"]) == ({"a": 1}, 2, "help", 3)
    assert seen["state"] is of
    assert seen["parser"] is rubric.parser
    assert {"completion", "answer", "task", "difficulty", "helper"} <= seen["kwargs"]


def test_a_parameter_that_nobody_provides_is_an_error_that_says_what_there_is() -> None:
    def wants_more(completion: Any, ground_truth: str) -> float:
        return 1.0

    with pytest.raises(RewardError, match=r"wants_more asks for ground_truth.*there are answer, completion, info"):
        alone(vf.Rubric([wants_more]))


@pytest.mark.parametrize("value", [None, [1.0], {}, "high", math.nan, math.inf])
def test_what_is_no_finite_number_is_an_error_and_never_zero(value: Any) -> None:
    def odd() -> Any:
        return value

    with pytest.raises(RewardError, match="reward function odd gave"):
        alone(vf.Rubric([odd]))


@pytest.mark.parametrize(("value", "reward"), [(True, 1.0), ("0.5", 0.5), (3, 3.0)])
def test_what_float_reads_is_a_number(value: Any, reward: float) -> None:
    assert alone(vf.Rubric([lambda: value]))["reward"] == reward


def test_a_function_that_raises_is_the_error_of_its_own_rollout() -> None:
    def divides(completion: Any) -> float:
        return 1 / len(completion[-1]["content"])

    good, bad = together(vf.Rubric([divides]), "ab", "")

    assert (good["reward"], good["error"]) == (0.5, None)
    assert bad["reward"] is None
    assert isinstance(bad["error"], ZeroDivisionError)


@pytest.mark.parametrize("value", [math.nan, "raise", 1e9])
def test_a_metric_of_weight_zero_never_touches_the_reward(value: Any) -> None:
    def noted(completion: Any) -> Any:
        return 1 / 0 if value == "raise" else value

    rubric = vf.Rubric([exact])
    rubric.add_metric(noted)
    scored = alone(rubric)

    assert scored["reward"] == 1.0
    assert ("noted" in scored["metrics"]) is (value == 1e9)
    assert ("noted" in (scored.get("metric_errors") or {})) is (value != 1e9)


def test_functions_of_one_name_each_have_a_metric() -> None:
    rubric = vf.Rubric([lambda: 1.0, lambda: 2.0])

    assert alone(rubric)["metrics"] == {"<lambda>": 1.0, "<lambda>_2": 2.0}


def test_later_functions_find_what_earlier_ones_put_into_the_state() -> None:
    def first(state: Any) -> float:
        state["found"] = 4
        return 0.0

    assert alone(vf.Rubric([first, lambda state: state["found"]]))["reward"] == 4.0


def test_async_functions_of_a_group_wait_together() -> None:
    most = [0, 0]

    async def slow(completion: Any) -> float:
        most[0] += 1
        most[1] = max(most)
        await asyncio.sleep(0.01)
        most[0] -= 1
        return 1.0

    together(vf.Rubric([slow]), "a", "b", "c")

    assert most[1] == 3


def test_a_group_function_gets_everybody_and_gives_one_number_for_each() -> None:
    def shortest(completions: Any, answers: Any, prompts: Any, infos: Any, tasks: Any, parser: Any) -> list[float]:
        assert len(completions) == len(answers) == len(prompts) == len(infos) == len(tasks) == 2
        lengths = [len(completion[-1].content) for completion in completions]
        return [float(length == min(lengths)) for length in lengths]

    scored = together(vf.Rubric([shortest, exact], [0.5, 1.0]), "hello", "hi")

    assert [of["reward"] for of in scored] == [1.0, 0.5]
    assert [of["metrics"]["shortest"] for of in scored] == [0.0, 1.0]


@pytest.mark.parametrize("gives", [[1.0], 1.0, None])
def test_a_group_function_that_gives_something_else_is_an_error_for_all(gives: Any) -> None:
    def ranks(completions: Any) -> Any:
        return gives

    scored = together(vf.Rubric([ranks]), "a", "b")

    assert all("group reward function ranks gave" in str(of["error"]) for of in scored)
    assert all(of["reward"] is None for of in scored)


def test_a_list_annotation_alone_makes_no_group_function_of_one_about_a_single_answer() -> None:
    def listed(completion: Any) -> list[float]:
        return [1.0]

    def any_of_all(**kwargs: Any) -> list[float]:
        return [1.0] * len(kwargs["completions"])

    assert not vf.Rubric([listed]).has_group_rewards
    assert vf.Rubric([any_of_all]).has_group_rewards
    assert [of["reward"] for of in together(vf.Rubric([any_of_all]), "a", "b")] == [1.0, 1.0]


def test_answers_that_are_compared_are_not_scored_alone() -> None:
    def ranks(states: Any) -> list[float]:
        return [1.0]

    with pytest.raises(ValueError, match="compares the answers"):
        alone(vf.Rubric([ranks]))


def test_a_rubric_group_adds_up_and_keeps_parsers_and_objects_apart() -> None:
    first = vf.Rubric([lambda parser, completion: len(parser.parse_answer(completion))], parser=vf.Parser(str.strip))
    second = vf.Rubric(
        [lambda parser, completion: parser.parse_answer(completion) == "x"], parser=vf.XMLParser(["answer"])
    )
    group = vf.RubricGroup([first, second])

    assert alone(group, state(" <answer>x</answer> "))["reward"] == 19.0
    assert [of["reward"] for of in together(group, "ab", "abc")] == [2.0, 3.0]


def test_a_rubric_group_keeps_the_error_of_any_of_its_rubrics() -> None:
    group = vf.RubricGroup([vf.Rubric([lambda: 1 / 0]), vf.Rubric([exact])])

    (scored,) = together(group, "hello")

    assert scored["reward"] is None
    assert isinstance(scored["error"], ZeroDivisionError)


def test_a_rubric_group_wants_a_rubric_and_gives_new_functions_to_its_first() -> None:
    first = vf.Rubric()
    vf.RubricGroup([first]).add_reward_func(exact)

    assert first.funcs == [exact]
    with pytest.raises(ValueError, match="at least one rubric"):
        vf.RubricGroup([])


def test_a_rubric_without_functions_earns_nothing() -> None:
    assert together(vf.Rubric(), "a")[0]["reward"] == 0.0


def test_exit_in_a_reward_function_is_an_error_of_its_rollout() -> None:
    def leaves(completion: Any) -> float:
        raise SystemExit(3)

    assert isinstance(together(vf.Rubric([leaves]), "a")[0]["error"], SystemExit)
