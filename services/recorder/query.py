"""A question about rollouts as SQL over the view `rollouts`, which has the columns of the record. Pure."""

from collections.abc import Iterator
from typing import Any

import msgspec

from flash.contracts.record import RolloutsAsked
from flash.errors import Refused

TOKENS = ("prompt_ids", "token_ids", "logprobs", "mask")
SORTABLE = (
    "step", "index", "example_id", "reward", "advantage", "fault", "policy_version", "environment_version",
    "finish_reason",
)  # fmt: skip
SHOWN = (
    "step", "group_id", "index", "example_id", "prompt", "completion", "reward", "advantage", "metrics", "fault",
    "policy_version", "environment_version", "finish_reason",
)  # fmt: skip
LIMIT = 1_000
"""How many rollouts one answer holds at most."""
AS_RECORDED = "step, CAST(split_part(group_id, '-', 3) AS INTEGER), \"index\""


class Query(msgspec.Struct, frozen=True, kw_only=True):
    """What the process that works at questions is given."""

    within_s: float
    """How long the answer may take."""
    files: list[str]
    """Parquet files that are the run's rollouts together."""
    conditions: list[str]
    values: list[Any]
    """What stands for the question marks of the conditions."""
    where: str
    """Somebody's own condition: not to be trusted."""
    order: str
    columns: str = "*"
    limit: int = 0
    offset: int = 0
    into: str = ""
    """Write what is found into this file, and answer with nothing."""

    @property
    def condition(self) -> str:
        parts = [*self.conditions, *([f"(\n{self.where}\n)"] if self.where else [])]
        return " AND ".join(parts) or "true"


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """What that process answers."""

    rows: list[list[Any]] = []
    total: int = 0
    refused: str = ""
    """One sentence: why there is no answer."""


def query(asked: RolloutsAsked, files: list[str], *, within_s: float, **more: Any) -> Query:
    """Raises Refused for a column that cannot be sorted by."""
    conditions = list(_conditions(asked))
    order = _order(asked.sort)
    if not more.get("into"):
        order = f"{order}, {AS_RECORDED}" if order else AS_RECORDED
    return Query(
        within_s=within_s,
        files=files,
        conditions=[condition for condition, _ in conditions],
        values=[value for _, values in conditions for value in values],
        where=asked.where.strip(),
        order=order,
        **more,
    )


def _conditions(asked: RolloutsAsked) -> Iterator[tuple[str, list[Any]]]:
    for column, sign, value in (
        ("step", "=", asked.step),
        ("group_id", "=", asked.group_id),
        ('"index"', "=", asked.index),
        ("example_id", "=", asked.example),
        ("reward", ">=", asked.min_reward),
        ("reward", "<=", asked.max_reward),
    ):
        if value is not None:
            yield f"{column} {sign} ?", [value]
    if asked.faults:
        yield "fault IS NOT NULL", []


def _order(sort: list[str]) -> str:
    for word in sort:
        if word.removeprefix("-") not in SORTABLE:
            raise Refused(f"rollouts cannot be sorted by {word!r}: the columns are {', '.join(SORTABLE)}")
    return ", ".join(
        f'"{word.removeprefix("-")}" {"DESC" if word.startswith("-") else "ASC"} NULLS LAST' for word in sort
    )
