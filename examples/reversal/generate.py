"""Makes the rows: `python generate.py`. Seeded, so it makes the same ones again."""

import json
import random
from pathlib import Path

PLACE = Path(__file__).parent / "dataset"
WORDS = """apple bird boat book bread chair cloud cup dog door fire fish flower forest garden glass green gold hand
horse house island lamp leaf light moon mountain music night ocean paper rain red river road rock rose salt sand school
ship silver sky snow star stone street sun table tea tree water window winter wood yellow""".split()  # noqa: SIM905 - a list this long reads better so

for split, count in (("train", 192), ("eval", 48)):
    chance, lines = random.Random(split), []
    for _ in range(count):
        words = chance.sample(WORDS, chance.randint(3, 4))
        lines.append(json.dumps({"question": " ".join(words), "answer": " ".join(reversed(words))}) + "\n")
    (PLACE / f"{split}.jsonl").write_text("".join(lines))
