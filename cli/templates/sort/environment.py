"""Sort a few digits: `Sort: 7 3 9 1 5` wants `1 3 5 7 9`."""

from typing import Any

from envsdk import EnvironmentSingleTurn, RewardMetric, RewardResult, TaskExample


class SortEnv(EnvironmentSingleTurn):
    """The reward is the share of digits in their place, so that nearly sorted earns more than not at all; success is
    all of them. Rows come from dataset/train.jsonl and, held out, dataset/eval.jsonl; generate.py wrote both.
    """

    def build_prompt_messages(self, example: TaskExample, prompt_text: str) -> list[dict[str, Any]]:
        return [{"role": "user", "content": example.input}]

    def score_response(self, example: TaskExample, response_text: str) -> RewardResult:
        wanted, said = str(example.output).split(), response_text.split()
        is_sorted = said == wanted
        exact = RewardMetric(name="exact", score=float(is_sorted), success=is_sorted)
        return RewardResult(score=in_place(wanted, said), success=is_sorted, metrics=(exact,))


def in_place(wanted: list[str], said: list[str]) -> float:
    """The share of digits in their place; 0.0 for an answer of another length."""
    if len(said) != len(wanted):
        return 0.0
    return sum(a == b for a, b in zip(wanted, said, strict=True)) / len(wanted)


def load_environment() -> SortEnv:
    return SortEnv()
