"""Which of two numbers is larger? The answer is the number and nothing else."""

from typing import Any

from envsdk import EnvironmentSingleTurn, RewardResult, TaskExample


class LargerEnv(EnvironmentSingleTurn):
    """Rows come from dataset/train.jsonl and, held out, dataset/eval.jsonl; generate.py wrote both."""

    def build_prompt_messages(self, example: TaskExample, prompt_text: str) -> list[dict[str, Any]]:
        return [{"role": "user", "content": example.input}]

    def score_response(self, example: TaskExample, response_text: str) -> RewardResult:
        is_right = response_text.strip() == example.output
        return RewardResult(score=float(is_right), success=is_right)


def load_environment() -> LargerEnv:
    return LargerEnv()
