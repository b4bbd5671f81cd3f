"""Makes the prices and the splits: `python generate.py`. Seeded, so it makes the same ones again."""

import json
import random
from pathlib import Path

PLACE = Path(__file__).parent
SYLLABLES = "ba be bi bo da de do fa fe ga go ka ke ko la le lo ma me mo na ne no pa pe po ra re ro sa se so ta te to"

chance, items = random.Random(0), {}
while len(items) < 240:
    items["".join(chance.sample(SYLLABLES.split(), chance.randint(2, 3)))] = chance.randint(2, 99)
(PLACE / "prices.json").write_text(json.dumps(items, indent=0) + "\n")
names = list(items)
for split, chosen in (("train", names[:192]), ("eval", names[192:])):
    (PLACE / "dataset" / f"{split}.txt").write_text("".join(f"{name}\n" for name in chosen))
