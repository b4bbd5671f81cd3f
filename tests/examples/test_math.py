"""examples/math: what counts as the same fraction, and what does not count at all."""

import json
from fractions import Fraction
from pathlib import Path

from flash.host import Host, HostSpec, Limits

MATH = Path(__file__).parents[2] / "examples" / "math"


EARNS = {
    "\\boxed{\\frac{1}{2}}": 1.1,
    "\\boxed{4/8}": 1.1,
    "\\boxed{0.5}": 1.1,
    "\\boxed{ 1/2 }\n": 1.1,
    "It is \\boxed{1/2}.": 1.0,
    "\\boxed{1/3} \\boxed{1/2}": 1.0,
    "\\boxed{1/2} \\boxed{1/3}": 0.0,
    "\\boxed{2/1}": 0.1,
    "\\boxed{1/0}": 0.1,
    "\\boxed{1/6 + 2/6}": 0.1,  # the question again
    "\\boxed{\\frac{1}{\\frac{2}{1}}}": 0.1,
    "\\boxed{9^{9^{9^{9}}}}": 0.1,
    "\\boxed{}": 0.1,
    "1/2": 0.0,
    "": 0.0,
}
"""Where the answer is a half."""


async def test_a_number_is_compared_as_mathematics_and_its_form_counts_a_little() -> None:
    host = await Host.start(HostSpec(folder=MATH, limits=Limits(slots=1)))
    try:
        page = await host.rows("train", 0, 1_000, "")
        a_half = next(example for example in page.examples if example.record["answer"] == "\\frac{1}{2}")
        verdicts = await host.score(a_half, list(EARNS), deadline_s=20)
    finally:
        await host.close()

    assert [verdict.fault for verdict in verdicts] == [None] * len(EARNS)
    assert {said: round(verdict.reward or 0.0, 3) for said, verdict in zip(EARNS, verdicts, strict=True)} == EARNS
    assert [verdict.success for verdict in verdicts] == [reward >= 1.0 for reward in EARNS.values()]
    lowest = [{metric.name: metric.score for metric in verdict.metrics}["lowest_terms"] for verdict in verdicts]
    assert lowest == [1.0] + [0.0] * (len(EARNS) - 1)
    gold = [(example.completion or [{}])[0]["content"] for example in page.examples]
    assert gold == [f"\\boxed{{{example.record['answer']}}}" for example in page.examples]


def test_the_rows_are_right_and_the_held_out_ones_are_apart() -> None:
    splits = {name: (MATH / "dataset" / f"{name}.jsonl").read_text().splitlines() for name in ("train", "eval")}

    rows = [json.loads(line) for lines in splits.values() for line in lines]
    for found in rows:
        first, sign, second = found["question"].split()
        result = Fraction(first) + Fraction(second) * (1 if sign == "+" else -1)
        assert Fraction(found["answer"].replace("\\frac{", "").replace("}{", "/").rstrip("}")) == result
    assert len({found["question"] for found in rows}) == len(rows) == 304
