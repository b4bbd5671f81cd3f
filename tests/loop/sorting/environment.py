"""Sort a few digits. Reward: the share of places that are right."""

import json
from pathlib import Path

from envsdk import EnvironmentSingleTurn, RewardResult


class Sorting(EnvironmentSingleTurn):
    dataset = [json.loads(line) for line in (Path(__file__).parent / "dataset/train.jsonl").read_text().splitlines()]

    def build_prompt_messages(self, example, prompt_text):
        return [{"role": "user", "content": example.input}]

    def score_response(self, example, response_text):
        wanted, given = example.output.split(), response_text.split()
        hits = sum(a == b for a, b in zip(wanted, given, strict=False))
        return RewardResult(score=hits / max(len(wanted), len(given), 1), success=wanted == given)


def load_environment():
    return Sorting()
