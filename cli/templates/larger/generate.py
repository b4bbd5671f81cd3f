"""Writes the rows: `python generate.py`. No pair of numbers is in both files."""

import json
import random
from pathlib import Path

TRAIN_ROWS, EVAL_ROWS, SEED = 512, 128, 0


def rows() -> list[dict[str, str]]:
    """Different pairs of different three-digit numbers, each pair once, whichever comes first."""
    draw = random.Random(SEED)
    pairs: dict[frozenset[int], tuple[int, int]] = {}
    while len(pairs) < TRAIN_ROWS + EVAL_ROWS:
        a, b = draw.sample(range(100, 1000), 2)
        pairs.setdefault(frozenset((a, b)), (a, b))
    return [{"input": f"Which is larger, {a} or {b}?", "output": str(max(a, b))} for a, b in pairs.values()]


def write(folder: Path) -> None:
    made = rows()
    for name, part in (("train", made[:TRAIN_ROWS]), ("eval", made[TRAIN_ROWS:])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))


if __name__ == "__main__":
    write(Path(__file__).parent / "dataset")
