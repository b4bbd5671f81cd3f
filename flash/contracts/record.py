"""A run's record: what the recorder says of it, and what it is asked about its rollouts."""

from typing import Annotated, Any, ClassVar, Literal

import msgspec
from msgspec import Meta

from flash.contracts.base import FilePart, Request, Role, RunEvent, Token
from flash.contracts.values import Fault, Message


class RecordClosed(RunEvent, frozen=True, kw_only=True):
    """A run that is over is written down: nothing of it is awaited any more."""

    name: ClassVar[str] = "record.closed.v1"
    address: ClassVar[tuple[str, ...]] = ("org", "run_id", "attempt")

    attempt: int = 1
    """Of the run, which may be resumed, and be over again."""
    upto: int
    """The position of the stream up to which its facts were written; what comes later gets a further segment."""


class RecordedRollout(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt at one example, as the record holds it."""

    step: int
    group_id: str
    """`<train|eval>-<step>-<group>`."""
    index: int
    """Its place in the group."""
    example_id: str
    prompt: list[Message]
    completion: list[Message]
    """What followed the prompt: the policy's answer, and in an episode what the environment said to it."""
    reward: float | None
    """None where `fault` says why there is none."""
    advantage: float | None
    """None while its step is not finished, and in an evaluation."""
    metrics: dict[str, Any]
    """The figures that the environment named."""
    fault: Fault | None
    policy_version: int
    environment_version: str
    finish_reason: str
    prompt_ids: list[int] = []
    """This and the next three only where tokens are asked for."""
    token_ids: list[int] = []
    logprobs: list[float] = []
    mask: list[int] = []


class RolloutsPage(msgspec.Struct, frozen=True, kw_only=True):
    rollouts: list[RecordedRollout]
    """As sorted; fewer than the limit where they are large."""
    total: int
    """How many there are in all, limit and offset aside."""


class RolloutsAsked(Request, frozen=True, kw_only=True):
    """Which rollouts of a run are meant."""

    role: ClassVar[Role] = "reader"

    org: Token
    run_id: Token
    step: int | None = None
    group_id: str | None = None
    index: int | None = None
    example: str | None = None
    """The example's id."""
    min_reward: float | None = None
    max_reward: float | None = None
    faults: bool = False
    """Only those that failed."""
    where: str = ""
    """A DuckDB expression over the record's columns, which may ask `rollouts` again in a subquery, and nothing else."""
    sort: list[str] = []
    """Columns, a `-` in front of those that fall; then step, group, index."""


class RolloutsFind(RolloutsAsked, frozen=True, kw_only=True):
    """Which rollouts of a run are such?"""

    name: ClassVar[str] = "rollouts.find"
    service: ClassVar[str] = "recorder"
    reply: ClassVar[type[msgspec.Struct]] = RolloutsPage

    limit: int = 20
    offset: int = 0
    tokens: bool = False
    """With token ids, logprobs and mask."""


class RolloutsExport(RolloutsAsked, frozen=True, kw_only=True):
    """Give such rollouts of a run as one Parquet file, part by part."""

    name: ClassVar[str] = "rollouts.export"
    service: ClassVar[str] = "recorder"
    reply: ClassVar[type[msgspec.Struct]] = FilePart
    streams: ClassVar[bool] = True


class AdapterFetch(Request, frozen=True, kw_only=True):
    """Give a file of an adapter that a run made, part by part, some megabytes at a time: ask again for what follows."""

    name: ClassVar[str] = "adapter.fetch"
    service: ClassVar[str] = "recorder"
    reply: ClassVar[type[msgspec.Struct]] = FilePart
    streams: ClassVar[bool] = True
    role: ClassVar[Role] = "reader"

    org: Token
    run_id: Token
    """In whose folder it lies."""
    digest: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$")]
    file: Literal["adapter_config.json", "adapter_model.safetensors"]
    start: int = 0
    """Of the first byte that is wanted."""
