"""What an organisation's runs have used, and what the recorder is asked about it."""

from typing import ClassVar, Literal

import msgspec

from flash.contracts.base import Request, Role, Token

By = Literal["day", "run", "org"]


class Used(msgspec.Struct, frozen=True, kw_only=True):
    """What was used; sums."""

    runs: int = 0
    """That were submitted, evaluations too."""
    steps: int = 0
    """Optimiser steps."""
    rollouts: int = 0
    """That were scored or given up, those of evaluations too."""
    sampled_tokens: int = 0
    """That policies wrote in those rollouts."""
    trained_tokens: int = 0
    """From which policies learned: those that a loss was taken over."""

    def plus(self, other: "Used") -> "Used":
        mine, more = msgspec.structs.asdict(self), msgspec.structs.asdict(other)
        return Used(**{name: value + more[name] for name, value in mine.items()})


class UsageRow(msgspec.Struct, frozen=True, kw_only=True):
    """One day, run or organisation."""

    name: str
    """The day in UTC, as `2026-11-21`, the run's id, or the organisation."""
    used: Used


class UsageSummed(msgspec.Struct, frozen=True, kw_only=True):
    rows: list[UsageRow]
    """The newest days and runs first; organisations by name."""
    count: int
    """How many rows there are, limit and offset aside."""
    total: Used
    """Of them all."""


class UsageSum(Request, frozen=True, kw_only=True):
    """What have runs used? What is not in a segment of the record yet is not counted yet."""

    name: ClassVar[str] = "usage.sum"
    service: ClassVar[str] = "recorder"
    reply: ClassVar[type[msgspec.Struct]] = UsageSummed
    role: ClassVar[Role] = "reader"

    org: Token | None
    """None: every organisation, which the operator may ask."""
    by: By = "day"
    since: str = ""
    """The first day that counts; empty: all."""
    limit: int = 500
    offset: int = 0

    def orgs(self) -> tuple[str, ...]:
        return ("every organisation",) if self.org is None else (self.org,)
