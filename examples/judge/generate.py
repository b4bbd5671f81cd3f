"""Makes the rows: `python generate.py`. Seeded, so it makes the same ones again."""

import json
import random
from pathlib import Path

PLACE = Path(__file__).parent / "dataset"

chance, lists = random.Random(0), {}
while len(lists) < 320:
    digits = tuple(chance.randrange(10) for _ in range(chance.randint(4, 6)))
    if list(digits) != sorted(digits):
        lists[digits] = None
rows = [
    {"question": f"Sort: {' '.join(map(str, digits))}", "answer": " ".join(map(str, sorted(digits)))}
    for digits in lists
]
for split, chosen in (("train", rows[:256]), ("eval", rows[256:])):
    (PLACE / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in chosen))
