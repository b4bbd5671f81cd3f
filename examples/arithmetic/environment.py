"""Add two numbers. In the verifiers dialect: prompts as messages, several weighted rewards, a metric beside them.

reward = 1.0 × right + 0.2 × how close + 0.1 × nothing but a number
"""

import json
import re
from pathlib import Path

import verifiers as vf

HERE = Path(__file__).parent


def load_environment(largest=20):
    """`largest`: rows with a larger number are left out."""
    rubric = vf.Rubric(funcs=[correct_answer, closeness, only_a_number], weights=[1.0, 0.2, 0.1])
    rubric.add_metric(response_length)
    return vf.SingleTurnEnv(
        dataset=lambda: rows("train", largest),
        eval_dataset=lambda: rows("eval", largest),
        rubric=rubric,
        pass_threshold=1.0,
    )


async def correct_answer(completion, answer):
    return float(said(completion) == int(answer))


def closeness(completion, answer):
    number = said(completion)
    return 0.0 if number is None else 1 / (1 + abs(number - int(answer)))


def only_a_number(completion):
    return completion[-1]["content"].strip().isdigit()


def response_length(completion):
    return len(completion[-1]["content"])


def said(completion):
    """The last number of the answer."""
    numbers = re.findall(r"\d{1,9}", completion[-1]["content"])
    return int(numbers[-1]) if numbers else None


def rows(split, largest):
    found = map(json.loads, (HERE / "dataset" / f"{split}.jsonl").read_text().splitlines())
    return [row for row in found if max(row["info"]["terms"]) <= largest]
