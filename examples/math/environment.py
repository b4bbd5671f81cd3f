"""Add and subtract fractions, the answer in a box. In the verifiers dialect: answers compared as mathematics.

reward = 1.0 × the box holds the right number, however it is written + 0.1 × there is one box and nothing else

To math-verify `3/6`, `\\frac{1}{2}` and `0.5` are the same, but so is `1/6 + 2/6`: whoever says the question again
would be right. So only a number counts as an answer.
"""

import json
import re
from pathlib import Path

import verifiers as vf

HERE = Path(__file__).parent
NUMBER = re.compile(r"-?(\d{1,4}(\.\d{1,4})?|\d{1,4}/\d{1,4}|\\frac\{\d{1,4}\}\{\d{1,4}\})")


def load_environment(system_prompt="Answer with the result in \\boxed{}."):
    parser = vf.MaybeThinkParser(number_in_box)
    rubric = vf.MathRubric(funcs=[only_a_box], weights=[0.1], parser=parser)
    rubric.add_metric(lowest_terms)
    return vf.SingleTurnEnv(
        dataset=lambda: rows("train"),
        eval_dataset=lambda: rows("eval"),
        system_prompt=system_prompt,
        parser=parser,
        rubric=rubric,
        pass_threshold=1.0,
    )


def number_in_box(text):
    """What stands in the last box, if it is a number; else nothing."""
    boxed = vf.extract_boxed_answer(text, strict=True).strip()
    return boxed if NUMBER.fullmatch(boxed) else ""


def only_a_box(completion):
    said = completion[-1]["content"].strip()
    return said.startswith("\\boxed{") and said.endswith("}") and said.count("\\boxed") == 1


def lowest_terms(parser, completion, answer):
    """Whether it is written as the dataset writes it. A metric: it earns nothing."""
    return parser.parse_answer(completion) == answer


def rows(split):
    return [json.loads(line) for line in (HERE / "dataset" / f"{split}.jsonl").read_text().splitlines()]
