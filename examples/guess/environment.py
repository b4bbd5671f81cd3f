"""Guess a number: the policy says one, hears `higher` or `lower`, and goes on until it is right or out of turns.

Each step knows what it needs from the example and the transcript; nothing is kept on the environment. So it does not
matter which episodes are played beside this one, or that a lost one begins anew.
"""

import random
import re
from pathlib import Path

from envsdk import EnvironmentMultiTurn, EnvironmentStepResult, RewardMetric, RewardResult, load_dataset

HERE = Path(__file__).parent


class Guess(EnvironmentMultiTurn):
    dataset = load_dataset(HERE / "dataset/train.jsonl")

    def start_episode(self, example, prompt_text):
        return [{"role": "user", "content": f"Guess {example.input}"}]

    def max_episode_turns(self, example):
        return example.metadata["turns"]

    def step_episode(self, example, messages, assistant_response):
        guess, secret = number(assistant_response), int(example.output)
        if guess == secret:
            return EnvironmentStepResult(done=True, metadata={"off": 0})
        hint = "?" if guess is None else "higher" if guess < secret else "lower"
        off = None if guess is None else abs(guess - secret)
        return EnvironmentStepResult(
            done=False, messages=({"role": "user", "content": hint},), metadata={"off": off, "hint": hint}
        )

    def score_episode(self, example, episode):
        """1 for the right number, less for each turn it took; else up to 0.3 for the closeness of the last guess."""
        offs = [step["off"] for step in episode.metadata["steps"]]
        turns, most = len(offs), example.metadata["turns"]
        won = offs[-1] == 0
        close = 0.0 if offs[-1] is None else 1 / (1 + offs[-1])
        return RewardResult(
            score=1.0 - 0.1 * (turns - 1) if won else 0.3 * close,
            success=won,
            metrics=(
                RewardMetric("turns", score=turns),
                RewardMetric("understood", score=sum(off is not None for off in offs) / most),
            ),
        )

    def sft_completion(self, example):
        """Halving, most of the time: the best play, and some that is not, so that there is something to learn from."""
        low, high = map(int, example.input.split(" to "))
        secret, turns = int(example.output), []
        chance = random.Random(f"{example.input} {secret} {example.id}")
        for _ in range(example.metadata["turns"]):
            guess = (low + high) // 2 if chance.random() < 0.6 else chance.randint(low, high)
            turns.append({"role": "assistant", "content": str(guess)})
            if guess == secret:
                break
            turns.append({"role": "user", "content": "higher" if guess < secret else "lower"})
            low, high = (guess + 1, high) if guess < secret else (low, guess - 1)
        return turns if turns[-1]["role"] == "assistant" else turns[:-1]


def number(text):
    """The first whole number of a text; None where there is none."""
    found = re.search(r"\d{1,6}", text)
    return int(found.group()) if found else None


def load_environment():
    return Guess()
