"""The task and its reward: a question, and another try after a wrong answer. Edit this file first."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from envsdk import (
    EnvironmentEpisode,
    EnvironmentMultiTurn,
    EnvironmentStepResult,
    RewardMetric,
    RewardResult,
    TaskExample,
    load_task_examples,
)

HERE = Path(__file__).parent
TURNS = 3


class StarterEnv(EnvironmentMultiTurn):
    """The reward is 1 for the expected text at the first try, less for each further one, and 0 without it."""

    def __init__(self) -> None:
        self.dataset = load_task_examples(HERE / "dataset" / "train.jsonl")

    def start_episode(self, example: TaskExample, prompt_text: str) -> list[dict[str, Any]]:
        return [{"role": "user", "content": example.input}]

    def max_episode_turns(self, example: TaskExample) -> int:
        return TURNS

    def step_episode(
        self, example: TaskExample, messages: Sequence[dict[str, Any]], assistant_response: str
    ) -> EnvironmentStepResult:
        is_right = answer(assistant_response) == answer(example.output)
        again = () if is_right else ({"role": "user", "content": "That is not it. Try again."},)
        return EnvironmentStepResult(done=is_right, messages=again, metadata={"is_right": is_right})

    def score_episode(self, example: TaskExample, episode: EnvironmentEpisode) -> RewardResult:
        steps = episode.metadata["steps"]
        is_right = steps[-1]["is_right"]
        score = 1.0 - (len(steps) - 1) / TURNS if is_right else 0.0
        return RewardResult(score=score, success=is_right, metrics=(RewardMetric("tries", score=len(steps)),))


def answer(text: Any) -> str:
    """What follows the thought, where there is one."""
    return str(text).rpartition("</think>")[2].strip()


def load_environment() -> StarterEnv:
    """What Flash calls; `[environment.params]` of a config become its arguments."""
    return StarterEnv()
