"""Writes the rows: `python generate.py`. No list of digits is in both files."""

import json
import random
from pathlib import Path

TRAIN_ROWS, EVAL_ROWS, SEED = 512, 128, 0
FEWEST_DIGITS, MOST_DIGITS = 4, 6


def rows() -> list[dict[str, str]]:
    """Different lists of digits, none of them in order already."""
    draw = random.Random(SEED)
    lists: dict[tuple[int, ...], None] = {}
    while len(lists) < TRAIN_ROWS + EVAL_ROWS:
        digits = tuple(draw.randrange(10) for _ in range(draw.randint(FEWEST_DIGITS, MOST_DIGITS)))
        if list(digits) != sorted(digits):
            lists[digits] = None
    return [{"input": f"Sort: {spaced(digits)}", "output": spaced(sorted(digits))} for digits in lists]


def spaced(digits: list[int] | tuple[int, ...]) -> str:
    return " ".join(map(str, digits))


def write(folder: Path) -> None:
    made = rows()
    for name, part in (("train", made[:TRAIN_ROWS]), ("eval", made[TRAIN_ROWS:])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))


if __name__ == "__main__":
    write(Path(__file__).parent / "dataset")
