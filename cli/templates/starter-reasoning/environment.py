"""The task and its reward: the model thinks, then answers, and the answer is graded. Edit this file first."""

from pathlib import Path
from typing import Any

from envsdk import EnvironmentSingleTurn, RewardResult, TaskExample, load_task_examples

HERE = Path(__file__).parent


class StarterEnv(EnvironmentSingleTurn):
    """The reward is 1 when what follows the thought is the expected text. Rows show SFT a thought and its answer."""

    def __init__(self) -> None:
        self.dataset = load_task_examples(HERE / "dataset" / "train.jsonl")

    def build_prompt_messages(self, example: TaskExample, prompt_text: str) -> list[dict[str, Any]]:
        return [{"role": "user", "content": example.input}]

    def score_response(self, example: TaskExample, response_text: str) -> RewardResult:
        # With `thinking = true` the response is the answer alone; response_text.thinking is the thought.
        is_right = response_text.strip() == answer(example.output)
        return RewardResult(score=float(is_right), success=is_right)


def answer(text: Any) -> str:
    """What follows the thought."""
    return str(text).rpartition("</think>")[2].strip()


def load_environment() -> StarterEnv:
    """What Flash calls; `[environment.params]` of a config become its arguments."""
    return StarterEnv()
