"""Which rows each step plays, and which chunks hold them. Pure functions of the plan, the seed and the step."""

import random
from collections.abc import Sequence
from functools import lru_cache
from math import ceil

from flash.contracts.keys import DATASET_CHUNK
from flash.contracts.plan import Plan
from flash.contracts.spec import RunSpec


def chunks_needed(rows: int) -> range:
    """Which chunks of the prepared dataset hold the first `rows` rows."""
    return range(ceil(rows / DATASET_CHUNK))


def chunks_in_order(spec: RunSpec, plan: Plan) -> Sequence[int]:
    """The chunks of the prepared dataset that the run reads, those that it reads first in front."""
    return _chunks_of_steps(plan, spec.seed) if spec.algorithm == "grpo" else chunks_needed(plan.rows)


def rows_of_step(plan: Plan, seed: int, step: int) -> tuple[int, ...]:
    """The rows that step `step` (1-based) plays: never one of them twice.

    An epoch is a permutation of the rows cut into whole steps; what is left over waits for the next permutation.
    """
    steps_per_epoch = plan.rows // plan.prompts_per_step
    epoch, place = divmod(step - 1, steps_per_epoch)
    begin = place * plan.prompts_per_step
    return _permutation(plan.rows, seed, epoch)[begin : begin + plan.prompts_per_step]


def is_evaluated(step: int, *, every: int, steps: int) -> bool:
    """Whether the policy that a step made is evaluated: the start, every so many steps, and the end."""
    return every > 0 and (step % every == 0 or step == steps)


@lru_cache(maxsize=16)
def _chunks_of_steps(plan: Plan, seed: int) -> tuple[int, ...]:
    chunks: dict[int, None] = {}
    all_chunks = len(chunks_needed(plan.rows))
    for step in range(1, plan.steps + 1):
        chunks.update(dict.fromkeys(row // DATASET_CHUNK for row in rows_of_step(plan, seed, step)))
        if len(chunks) == all_chunks:
            break
    return tuple(chunks)


@lru_cache(maxsize=16)
def _permutation(rows: int, seed: int, epoch: int) -> tuple[int, ...]:
    order = list(range(rows))
    random.Random(f"{seed}/{epoch}").shuffle(order)
    return tuple(order)
