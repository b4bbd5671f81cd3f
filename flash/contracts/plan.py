"""How many steps a run has, and how many rows it uses: a pure function of the spec and the dataset's length."""

from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil

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


def unlearnable(spec: RunSpec, planned: Plan, missing_output: Iterable[int]) -> str:
    """Why an SFT run cannot use its rows, where some of them have no gold output; else empty."""
    missing = [row for row in missing_output if row < planned.rows]
    if spec.algorithm != "sft" or not missing:
        return ""
    named = ", ".join(str(row) for row in missing[:5]) + (", ..." if len(missing) > 5 else "")
    return f"SFT trains on gold output, but rows {named} have none: add it, or use grpo"


def _steps(spec: RunSpec, train: TrainSpec, rows: int) -> int:
    if spec.algorithm == "grpo":
        return train.steps
    steps = train.epochs * ceil(rows / train.batch_size)
    return min(steps, train.max_steps) if train.max_steps else steps
