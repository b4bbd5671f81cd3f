"""Makes the rows: `python generate.py`. Seeded, so it makes the same ones again."""

import json
import random
from pathlib import Path

PLACE = Path(__file__).parent / "dataset"

sums = [(a, b) for a in range(21) for b in range(21)]
random.Random(0).shuffle(sums)
for split, chosen in (("train", sums[:320]), ("eval", sums[320:384])):
    lines = [
        json.dumps(
            {
                "prompt": [{"role": "user", "content": f"Add: {a} + {b}"}],
                "answer": str(a + b),
                "info": {"terms": [a, b]},
            }
        )
        for a, b in chosen
    ]
    (PLACE / f"{split}.jsonl").write_text("".join(line + "\n" for line in lines))
