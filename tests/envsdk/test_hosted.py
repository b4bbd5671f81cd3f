"""Verdicts and rows as plain data, without a process."""

import math
import time
from pathlib import Path
from typing import Any

import pytest

from envsdk import EnvironmentSingleTurn, RewardMetric, RewardResult, TaskExample
from envsdk.faults import NoRewardError
from envsdk.hosted import Hosted, verdict


class Liar(float):
    """Reads differently each time."""


class Env(EnvironmentSingleTurn):
    """Does with a text what `does` says."""

    def __init__(self, does: Any = None) -> None:
        self.does = does or (lambda text: 1.0)

    def build_prompt_messages(self, example: TaskExample, prompt_text: str) -> list[dict[str, Any]]:
        return [{"role": "user", "content": example.input}]

    def score_response(self, example: TaskExample, response_text: str) -> RewardResult:
        result: RewardResult = self.does(response_text)
        return result


class Ranking(Env):
    def score_responses(self, example: TaskExample, texts: Any) -> list[RewardResult]:
        results: list[RewardResult] = self.does(texts)
        return results


ROW = {"record": {"input": "q"}, "input": "q", "id": "example_000000", "metadata": {}, "output": "a"}


def score(env: Env, *texts: str, at_once: int = 4, **given: Any) -> list[dict[str, Any]]:
    told: dict[int, dict[str, Any]] = {}
    args = {"example": ROW, "texts": list(texts), "thinking": False, "prompt_opened": False, "at_once": at_once}
    Hosted(env, Path("/nowhere"), {}, in_code=True).score({**args, **given}, told.__setitem__)
    return [told[index] for index in range(len(texts))]


@pytest.mark.parametrize("number", [1.5, 2, True, -3])
def test_a_plain_number_is_a_reward(number: float) -> None:
    alone, wrapped = verdict(number), verdict(RewardResult(number))

    assert type(alone["reward"]) is float
    assert alone["reward"] == wrapped["reward"] == number
    assert alone["success"] is wrapped["success"] is (number > 0)


@pytest.mark.parametrize("bad", [math.nan, math.inf, 1e10, 10**400, "1", None, [1], Liar(1.0), 1j])
def test_what_is_no_finite_number_is_no_reward(bad: Any) -> None:
    for result in (bad, RewardResult(bad)):
        with pytest.raises(NoRewardError, match="wanted"):
            verdict(result)


def test_a_verdict_carries_success_metrics_and_what_json_can_hold_of_the_metadata() -> None:
    found = verdict(
        RewardResult(
            0.5,
            threshold=0.9,
            error="judge unsure",
            metadata={1: {2}, "path": Path("/a"), "deep": {"list": (1, 2)}},
            metrics=(RewardMetric("length", score=3, weight=0.5, reason="short"),),
        )
    )

    assert found["success"] is False
    assert found["error"] == "judge unsure"
    assert found["metadata"] == {"1": [2], "path": "/a", "deep": {"list": [1, 2]}}
    assert found["metrics"][0] == {
        "name": "length", "score": 3.0, "value": None, "success": None, "weight": 0.5, "reason": "short",
    }  # fmt: skip


@pytest.mark.parametrize("at_once", [1, 4])
def test_a_raise_is_the_fault_of_its_own_answer(at_once: int) -> None:
    def does(text: str) -> float:
        if text == "exit":
            raise SystemExit(3)
        return 1 / len(text)

    good, empty, left = score(Env(does), "ab", "", "exit", at_once=at_once)

    assert good["reward"] == 0.5
    assert empty["fault"]["kind"] == left["fault"]["kind"] == "raised"
    assert empty["fault"]["message"] == "ZeroDivisionError: division by zero"
    assert "in does" in empty["fault"]["traceback"]
    assert "envsdk/hosted.py" not in empty["fault"]["traceback"]
    assert left["fault"]["message"] == "SystemExit: 3"


def test_slow_answers_are_scored_side_by_side() -> None:
    began = time.monotonic()

    verdicts = score(Env(lambda text: time.sleep(0.2) or 1.0), *"abcd", at_once=4)

    assert time.monotonic() - began < 0.6
    assert [verdict["reward"] for verdict in verdicts] == [1.0] * 4


def test_an_author_who_compares_answers_gets_the_whole_group() -> None:
    ranked = score(Ranking(lambda texts: [float(sorted(texts).index(text)) for text in texts]), "c", "a", "b")

    assert [verdict["reward"] for verdict in ranked] == [2.0, 0.0, 1.0]


def test_a_comparison_of_the_wrong_length_is_no_result_for_anyone() -> None:
    short = score(Ranking(lambda texts: [1.0]), "a", "b")
    broken = score(Ranking(lambda texts: texts[9]), "a", "b")

    assert [verdict["fault"]["kind"] for verdict in short] == ["invalid-result"] * 2
    assert "gave 1 results for 2 answers" in short[0]["fault"]["message"]
    assert [verdict["fault"]["kind"] for verdict in broken] == ["raised"] * 2


def test_a_thinking_run_gives_the_author_the_answer_and_the_thoughts() -> None:
    seen: list[Any] = []

    class Thinker(Env):
        def normalize_response_text(self, example: TaskExample, response_text: str) -> str:
            return response_text.strip()

    env = Thinker(lambda text: seen.append((text, text.thinking, text.raw)) or 1.0)
    score(env, "<think>why</think> 4 ", thinking=True)
    score(env, "cut off", thinking=True, prompt_opened=True)

    assert seen == [("4", "why", "<think>why</think> 4 "), ("", "cut off", "cut off")]


def rendered(env: Env, records: list[Any]) -> list[dict[str, Any]]:
    told: list[dict[str, Any]] = []
    hosted = Hosted(env, Path("/nowhere"), {"records": records}, in_code=True)
    args = {"split": "train", "start": 0, "count": 10, "prompt_text": "sys"}
    hosted.rows(args, lambda _, value: told.append(value))
    return told


def test_a_row_is_rendered_with_opening_and_gold_turns() -> None:
    total, first, second = rendered(Env(), [{"input": "q", "output": "a", "x": 1}, {"input": "r"}])

    assert total == {"total": 2}
    assert first["example"]["messages"] == [{"role": "system", "content": "sys"}, {"role": "user", "content": "q"}]
    assert first["example"]["completion"] == [{"role": "assistant", "content": "a"}]
    assert first["example"]["record"] == {"input": "q", "output": "a", "x": 1}
    assert second["example"]["completion"] is None


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ({"input": "q", "output": {1, 2}}, "row 2: output holds a set"),
        ({"input": "q", "metadata": {1: 2}}, "row 2: metadata has 1 as a key"),
        ({"input": "q", "output": 2**70}, "more than 64 bits"),
        ({"input": "q", "output": {"messages": 3}}, "row 2: output.messages is a int"),
    ],
)
def test_a_row_that_cannot_travel_is_named(record: dict[str, Any], said: str) -> None:
    told = rendered(Env(), [{"input": "ok"}, record])

    assert said in told[-1]["fault"]["message"]
    assert told[-1]["fault"]["kind"] == "load-failed"


@pytest.mark.parametrize("way", ["real", "linked"])
def test_a_row_that_cannot_be_read_is_named_by_the_authors_own_file(way: str, tmp_path: Path) -> None:
    (tmp_path / "linked").symlink_to(tmp_path / "real")
    (tmp_path / "real/dataset").mkdir(parents=True)
    (tmp_path / "real/dataset/train.jsonl").write_text('{"input": "q"}\n{"input": \n')
    env, told = Env(), list[dict[str, Any]]()
    env.dataset = "dataset/train.jsonl"  # type: ignore[attr-defined]

    hosted = Hosted(env, tmp_path / way, {}, in_code=True)
    hosted.rows({"split": "train", "start": 0, "count": 10, "prompt_text": ""}, lambda _, value: told.append(value))

    fault = told[-1]["fault"]
    assert fault["message"].startswith("ValueError: dataset/train.jsonl line 2 is not JSON")
    assert "ValueError: dataset/train.jsonl line 2" in fault["traceback"]
    assert str(tmp_path) not in fault["traceback"]


def test_an_opening_that_is_no_conversation_is_named() -> None:
    class Odd(Env):
        def build_prompt_messages(self, example: TaskExample, prompt_text: str) -> list[dict[str, Any]]:
            return [{"role": "user"}]

    assert "row 1: message 2 has no content" in rendered(Odd(), [{"input": "q"}])[-1]["fault"]["message"]
