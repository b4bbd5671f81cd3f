"""An environment as it is written for the real `verifiers` package: sorting, in one turn or in three."""

import verifiers as vf
from datasets import Dataset


def places(completion, answer, gap):
    said = completion[0]["content"].split()
    return sum(a == b for a, b in zip(said, answer.split(), strict=False)) / gap


def length(completion):
    return len(completion[0]["content"]) % 7


def cut(state):
    return float(state["is_truncated"])


class Again(vf.MultiTurnEnv):
    async def env_response(self, messages, state, **kwargs):
        return [vf.UserMessage(content=f"again {len(state['trajectory'])}")]


def load_environment(turns=1):
    rows = [
        {"question": text, "answer": " ".join(sorted(text.split())), "gap": 2} for text in ("3 1 2", "2 1", "9 4 7")
    ]
    kind = Again if turns > 1 else vf.SingleTurnEnv
    limit = {"max_turns": turns} if turns > 1 else {}
    return kind(
        dataset=Dataset.from_list(rows), rubric=vf.Rubric([places, length, cut], weights=[1.0, 0.25, 0.0]), **limit
    )
