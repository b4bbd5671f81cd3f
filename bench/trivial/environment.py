"""An environment that costs nothing: every answer earns 1."""

from typing import Any

from envsdk import EnvironmentSingleTurn, TaskExample


class TrivialEnv(EnvironmentSingleTurn):
    dataset = [{"input": "question", "output": "answer"}]

    def build_prompt_messages(self, example: TaskExample, prompt_text: str) -> list[dict[str, Any]]:
        return [{"role": "user", "content": example.input}]

    def score_response(self, example: TaskExample, response_text: str) -> float:
        return 1.0


def load_environment() -> TrivialEnv:
    return TrivialEnv()
