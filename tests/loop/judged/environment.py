"""Sorting in the verifiers dialect: a lazy dataset, async and group rewards, a metric, answers that are faults."""

import asyncio

import verifiers as vf

ROWS = [{"question": f"Sort: {a} {b}", "answer": f"{min(a, b)} {max(a, b)}", "gap": abs(a - b)}
        for a in range(9) for b in range(9) if a != b]  # fmt: skip


async def places(completion, answer):
    await asyncio.sleep(0.001)
    hits = sum(a == b for a, b in zip(completion[-1]["content"].split(), answer.split(), strict=False))
    return hits / 2


def first_said(completions, states):
    texts = [completion[-1].content for completion in completions]
    return [float(text not in texts[:at]) for at, text in enumerate(texts)]


def no_empty_answers(completion):
    return 1 / len(completion[-1]["content"].split()) * 0


def load_environment():
    rubric = vf.Rubric(funcs=[places, first_said, no_empty_answers], weights=[1.0, 0.25, 1.0])
    rubric.add_metric(lambda gap: gap)
    return vf.SingleTurnEnv(dataset=lambda: ROWS, rubric=rubric)
