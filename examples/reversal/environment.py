"""Say some words in reverse order, between tags. In the verifiers dialect: an XML parser, and a continuous reward.

reward = 1.0 × how much of the reversed text is there, in order + 0.2 × how well the tags are kept
"""

import json
from difflib import SequenceMatcher
from pathlib import Path

import verifiers as vf

HERE = Path(__file__).parent


def load_environment(system_prompt=None):
    parser = vf.XMLParser(["reversed_text"], answer_field="reversed_text")

    def alike(parser, completion, answer):
        """The share of the two texts that a longest common subsequence of words covers."""
        said = (parser.parse_answer(completion) or "").split()
        return SequenceMatcher(None, said, answer.split()).ratio()

    def exact(parser, completion, answer):
        return parser.parse_answer(completion) == answer

    rubric = vf.Rubric(funcs=[alike, parser.get_format_reward_func()], weights=[1.0, 0.2], parser=parser)
    rubric.add_metric(exact)
    return vf.SingleTurnEnv(
        dataset=lambda: rows("train"),
        eval_dataset=lambda: rows("eval"),
        system_prompt=system_prompt or f"Say the words in reverse order. Answer like this:\n{parser.get_format_str()}",
        parser=parser,
        rubric=rubric,
        pass_threshold=1.2,
    )


def rows(split):
    return [json.loads(line) for line in (HERE / "dataset" / f"{split}.jsonl").read_text().splitlines()]
