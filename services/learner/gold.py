"""Which gold rows a step of SFT learns from, and at what rate. Pure functions of the run and the step."""

import random
from functools import lru_cache
from math import ceil

WARM_UP = 0.03
"""Share of the steps over which the learning rate rises to its full height."""


def rows_of_step(step: int, *, seed: int, rows: int, batch_size: int) -> tuple[int, ...]:
    """The rows of step `step` (1-based). Each epoch is a shuffle of all rows; its last batch may be smaller."""
    epoch, place = divmod(step - 1, _steps_per_epoch(rows, batch_size))
    return _order(seed, epoch, rows)[place * batch_size : (place + 1) * batch_size]


def epochs_after(step: int, *, rows: int, batch_size: int) -> float:
    """How often the run has been through the rows after this step."""
    epochs, steps = divmod(step, _steps_per_epoch(rows, batch_size))
    return epochs + steps * batch_size / rows


def warmed_up(learning_rate: float, *, step: int, steps: int) -> float:
    """The rate of step `step`: a straight rise over the first 3 % of the steps, then constant."""
    return learning_rate * min(1.0, step / max(1, ceil(WARM_UP * steps)))


def _steps_per_epoch(rows: int, batch_size: int) -> int:
    return ceil(rows / batch_size)


@lru_cache(maxsize=16)
def _order(seed: int, epoch: int, rows: int) -> tuple[int, ...]:
    order = list(range(rows))
    random.Random(f"sft/{seed}/{epoch}").shuffle(order)
    return tuple(order)
