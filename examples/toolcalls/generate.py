"""Makes the rows: `python generate.py`. Seeded, so it makes the same ones again."""

import json
import random
from pathlib import Path

from environment import used

PLACE = Path(__file__).parent / "dataset"


def row(chance: random.Random) -> dict[str, object]:
    a, b = chance.randint(1, 99), chance.randint(1, 99)
    digits = chance.sample(range(10), chance.randint(3, 5))
    question, name, arguments = chance.choice(
        [
            (f"Add: {a} + {b}", "add", {"a": a, "b": b}),
            (f"Which is larger, {a} or {b}?", "larger", {"a": a, "b": b}),
            (f"Sort: {' '.join(map(str, digits))}", "sort", {"digits": digits}),
        ]
    )
    call = {"name": name, "arguments": arguments}
    given = used(call)
    return {
        "input": question,
        "output": {
            "messages": [
                {"role": "assistant", "content": None, "tool_calls": [{"type": "function", "function": call}]},
                {"role": "tool", "content": given},
                {"role": "assistant", "content": given},
            ]
        },
    }


for split, count in (("train", 256), ("eval", 64)):
    chance = random.Random(split)
    lines = [json.dumps(row(chance)) + "\n" for _ in range(count)]
    (PLACE / f"{split}.jsonl").write_text("".join(lines))
