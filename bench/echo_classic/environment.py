"""The task of `bench/echo` in the verifiers dialect, as `bench.peers.verifiers` writes it for the peer."""

from typing import Any

import verifiers as vf

WORDS = ["alpha", "bravo", "charlie", "delta", "echo", "foxtrot", "golf", "hotel", "india", "juliet", "kilo", "lima"]


async def contains(completion: Any, answer: str, parser: Any) -> float:
    return 1.0 if answer in (parser.parse_answer(completion) or "") else 0.0


def length(completion: Any) -> float:
    return float(len(completion[-1]["content"]))


def load_environment(count: int) -> vf.SingleTurnEnv:
    texts = [f"{i}: " + " ".join(WORDS[(i * 7 + k) % 12] for k in range(24)) for i in range(count)]
    rows = [{"question": text, "answer": WORDS[i % 12]} for i, text in enumerate(texts)]
    parser = vf.Parser()
    rubric = vf.Rubric(funcs=[contains, length], weights=[1.0, 0.0], parser=parser)
    return vf.SingleTurnEnv(dataset=rows, parser=parser, rubric=rubric, system_prompt="Repeat the text.")
