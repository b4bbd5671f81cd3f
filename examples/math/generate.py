"""Makes the rows: `python generate.py`. Seeded, so it makes the same ones again."""

import json
import random
from fractions import Fraction
from pathlib import Path

PLACE = Path(__file__).parent / "dataset"


def row(a: int, sign: str, b: int, n: int) -> dict[str, str]:
    result = Fraction(a + b if sign == "+" else a - b, n)
    whole = result.denominator == 1
    return {
        "question": f"{a}/{n} {sign} {b}/{n}",
        "answer": str(result) if whole else f"\\frac{{{result.numerator}}}{{{result.denominator}}}",
    }


# Numerators stay small: the model is to learn what to do with them, not to add large numbers.
tasks = [
    row(a, sign, b, n)
    for n in range(3, 13)
    for a in range(1, n)
    for b in range(1, n)
    for sign in "+-"
    if (a + b <= 10 if sign == "+" else a > b)
]
random.Random(0).shuffle(tasks)
for split, chosen in (("train", tasks[:256]), ("eval", tasks[256:304])):
    (PLACE / f"{split}.jsonl").write_text("".join(json.dumps(task) + "\n" for task in chosen))
