"""Makes the rows: `python generate.py`. Seeded, so it makes the same ones again."""

import json
import random
from pathlib import Path

PLACE = Path(__file__).parent / "dataset"


def row(chance: random.Random) -> dict[str, object]:
    low = chance.randint(1, 3)
    high = low + chance.randint(4, 6)
    return {"input": f"{low} to {high}", "output": str(chance.randint(low, high)), "metadata": {"turns": 4}}


for split, count in (("train", 96), ("eval", 24)):
    chance = random.Random(split)
    (PLACE / f"{split}.jsonl").write_text("".join(json.dumps(row(chance)) + "\n" for _ in range(count)))
