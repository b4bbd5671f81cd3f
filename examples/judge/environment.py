"""Sort some digits, graded by another model. In the verifiers dialect: a JudgeRubric behind checks that need no judge.

reward = the judge's grade, from 0 to 1; 0 unasked for an answer that does not consist of the digits that were given

The judge is any OpenAI-compatible endpoint. One that cannot be asked, or says no grade, is a fault and never a 0.
"""

import json
import re
from pathlib import Path

import verifiers as vf

HERE = Path(__file__).parent
QUESTION = """How well is this sorted, smallest first?

Asked: {question}
Answered: {response}

Say a whole number from 0 (not at all) to 10 (perfectly), and nothing else."""


def load_environment(judge_url="http://127.0.0.1:8123/v1", judge_model="judge"):
    client = vf.Client(judge_url, timeout=30, max_retries=2, max_concurrent=8)
    rubric = vf.JudgeRubric(
        judge_client=client,
        judge_model=judge_model,
        judge_prompt=QUESTION,
        judge_sampling_args={"temperature": 0, "max_tokens": 8},
        max_concurrent=8,
    )
    rubric.add_reward_func(graded)
    rubric.add_metric(plausible)
    rubric.add_metric(exact)
    return vf.SingleTurnEnv(
        dataset=lambda: rows("train"),
        eval_dataset=lambda: rows("eval"),
        rubric=rubric,
        pass_threshold=1.0,
    )


async def graded(prompt, completion, answer, state, judge):
    if not plausible(completion, answer):
        return 0.0
    said = await judge(prompt, completion, answer, state)
    grade = re.fullmatch(r"\s*(10|\d)\b.*", said, re.DOTALL)
    if grade is None:
        raise ValueError(f"the judge says {said[:80]!r}, wanted a number from 0 to 10")
    return int(grade.group(1)) / 10


def plausible(completion, answer):
    """Nothing but the digits that were given, in some order: what is worth asking a judge about."""
    said = completion[-1]["content"]
    return len(said) <= 2 * len(answer) and sorted(said.split()) == sorted(answer.split())


def exact(completion, answer):
    return completion[-1]["content"].split() == answer.split()


def rows(split):
    return [json.loads(line) for line in (HERE / "dataset" / f"{split}.jsonl").read_text().splitlines()]
