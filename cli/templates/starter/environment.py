"""The task and its reward: what the model practises on, and how an answer is graded. Edit this file first."""

from pathlib import Path
from typing import Any

from envsdk import EnvironmentSingleTurn, RewardResult, TaskExample, load_task_examples

HERE = Path(__file__).parent


class StarterEnv(EnvironmentSingleTurn):
    """Each row is one question; the reward is 1 when the answer is the expected text, and nothing else."""

    def __init__(self) -> None:
        self.dataset = load_task_examples(HERE / "dataset" / "train.jsonl")

    def build_prompt_messages(self, example: TaskExample, prompt_text: str) -> list[dict[str, Any]]:
        return [{"role": "user", "content": example.input}]

    def score_response(self, example: TaskExample, response_text: str) -> RewardResult:
        is_right = response_text.strip() == str(example.output).strip()
        return RewardResult(score=float(is_right), success=is_right)


def load_environment() -> StarterEnv:
    """What Flash calls; `[environment.params]` of a config become its arguments."""
    return StarterEnv()
