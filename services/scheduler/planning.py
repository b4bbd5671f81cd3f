"""How many steps a run has, and which rows each of them plays. Pure functions of the spec, the seed and the step."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import ceil

from flash.contracts.keys import DATASET_CHUNK
from flash.contracts.spec import RunSpec, TrainSpec


@dataclass(frozen=True)
class Plan:
    """What is known once the dataset is counted."""

    rows: int
    """How many rows the run uses, from the first on."""
    prompts_per_step: int
    steps: int


def plan(spec: RunSpec, dataset_rows: int) -> Plan:
    """The plan of a run over a dataset of so many rows; prompts per step are clamped to the rows."""
    if spec.train is None:
        rows = min(spec.max_examples or dataset_rows, dataset_rows)
        return Plan(rows=rows, prompts_per_step=rows, steps=1)
    rows = min(spec.train.max_examples or dataset_rows, dataset_rows) if spec.algorithm == "sft" else dataset_rows
    return Plan(rows=rows, prompts_per_step=min(spec.train.batch_size, rows), steps=_steps(spec, spec.train, rows))


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


def _steps(spec: RunSpec, train: TrainSpec, rows: int) -> int:
    if spec.algorithm == "grpo":
        return train.steps
    steps = train.epochs * ceil(rows / train.batch_size)
    return min(steps, train.max_steps) if train.max_steps else steps


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
