"""What `bench.eval` evaluates here; `bench.peers.verifiers` has the same task for the peer."""

from typing import Any

from envsdk import EnvironmentSingleTurn, RewardMetric, RewardResult, TaskExample

WORDS = ["alpha", "bravo", "charlie", "delta", "echo", "foxtrot", "golf", "hotel", "india", "juliet", "kilo", "lima"]


class Echo(EnvironmentSingleTurn):
    """1.0 for an answer that holds the expected word; its length is a metric."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.dataset = rows

    def build_prompt_messages(self, example: TaskExample, prompt_text: str) -> list[dict[str, Any]]:
        return [{"role": "system", "content": "Repeat the text."}, {"role": "user", "content": example.input}]

    def score_response(self, example: TaskExample, response_text: str) -> RewardResult:
        length = RewardMetric(name="length", score=float(len(response_text)))
        return RewardResult(score=float(example.output in response_text), metrics=(length,))


def load_environment(count: int) -> Echo:
    texts = [f"{i}: " + " ".join(WORDS[(i * 7 + k) % 12] for k in range(24)) for i in range(count)]
    return Echo([{"input": text, "output": WORDS[i % 12]} for i, text in enumerate(texts)])
