"""What is asked before a run is submitted: are its rows sound, and how long are they for its model?"""

from typing import ClassVar

import msgspec

from flash.contracts.base import Request, Token
from flash.contracts.keys import orgs_of
from flash.contracts.spec import RunSpec
from flash.contracts.values import Fault


class PreparedRows(msgspec.Struct, frozen=True, kw_only=True):
    """One chunk of a dataset lies in the store, where the run will look for it."""

    rows: int = 0
    """Of the whole dataset."""
    digest: str = ""
    """sha256 of the chunk as it is stored, in hex."""
    missing_output: list[int] = []
    """Rows of this chunk without gold output; at most 100 are named."""
    thoughtless: list[int] = []
    """Rows of this chunk whose gold answer holds no thought, where the run thinks."""
    fault: Fault | None = None
    """The environment could not give its rows."""


class DatasetPrepare(Request, frozen=True, kw_only=True):
    """Render these rows now, as a run of this spec would need them."""

    name: ClassVar[str] = "dataset.prepare"
    service: ClassVar[str] = "scorer"
    reply: ClassVar[type[msgspec.Struct]] = PreparedRows

    spec: RunSpec
    chunk: int
    sealed: bytes = b""
    """The run's secrets, sealed to the scorers' key; empty: it is given none."""

    def orgs(self) -> tuple[str, ...]:
        return orgs_of(self.spec)


class RowLengths(msgspec.Struct, frozen=True, kw_only=True):
    """How long the rows of a chunk are."""

    tokens: list[int]
    """Of each row, in order: SFT its conversation, otherwise its prompt."""
    unusable: list[int] = []
    """Rows that the run can learn nothing from: too long to keep a target token, or to be answered at all."""


class DatasetMeasure(Request, frozen=True, kw_only=True):
    """How many tokens are the prepared rows for the model of this pool?"""

    name: ClassVar[str] = "dataset.measure"
    service: ClassVar[str] = "rollout"
    reply: ClassVar[type[msgspec.Struct]] = RowLengths
    route: ClassVar[str | None] = "pool"

    pool: Token
    spec: RunSpec
    chunk: int
    rows: int
    """Only the first so many of the chunk."""

    def orgs(self) -> tuple[str, ...]:
        return orgs_of(self.spec)
