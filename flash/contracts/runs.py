"""A run's life, and the dataset it works through."""

from typing import Any, ClassVar

from flash.contracts.base import RunEvent, Token
from flash.contracts.spec import RunSpec
from flash.contracts.values import Fault


class RunSubmitted(RunEvent, frozen=True, kw_only=True):
    """A valid config was accepted; the run is queued."""

    name: ClassVar[str] = "run.submitted.v1"
    address: ClassVar[tuple[str, ...]] = ("org", "run_id")

    spec: RunSpec
    submitted_at: float
    """Seconds since the epoch."""


class RunPlanned(RunEvent, frozen=True, kw_only=True):
    """The dataset is counted: it is known how many steps the run has."""

    name: ClassVar[str] = "run.planned.v1"
    address: ClassVar[tuple[str, ...]] = ("org", "run_id")

    rows: int
    prompts_per_step: int
    """Never more than the rows."""
    steps: int


class RunStarted(RunEvent, frozen=True, kw_only=True):
    """What a learner needs is there: one of the pool takes the run."""

    name: ClassVar[str] = "run.started.v1"
    address: ClassVar[tuple[str, ...]] = ("pool", "org", "run_id", "attempt")

    pool: Token
    attempt: int
    steps: int
    prompts_per_step: int
    rows: int


class RunCancelRequested(RunEvent, frozen=True, kw_only=True):
    """Somebody asked to stop."""

    name: ClassVar[str] = "run.cancel-requested.v1"
    address: ClassVar[tuple[str, ...]] = ("org", "run_id")


class RunCompleted(RunEvent, frozen=True, kw_only=True):
    """The run did what it was to do."""

    name: ClassVar[str] = "run.completed.v1"
    address: ClassVar[tuple[str, ...]] = ("org", "run_id")

    metrics: dict[str, Any] = {}
    """An evaluation's summary; a training run's last step."""


class RunFailed(RunEvent, frozen=True, kw_only=True):
    """The run cannot go on."""

    name: ClassVar[str] = "run.failed.v1"
    address: ClassVar[tuple[str, ...]] = ("org", "run_id")

    reason: str
    fault: Fault | None = None


class RunCancelled(RunEvent, frozen=True, kw_only=True):
    """The run stopped because somebody asked; its checkpoints stay."""

    name: ClassVar[str] = "run.cancelled.v1"
    address: ClassVar[tuple[str, ...]] = ("org", "run_id")


class DatasetRequested(RunEvent, frozen=True, kw_only=True):
    """A run needs these rows rendered by its environment."""

    name: ClassVar[str] = "dataset.requested.v1"
    address: ClassVar[tuple[str, ...]] = ("org", "run_id", "chunk")

    chunk: int
    """Rows `chunk * DATASET_CHUNK` and on."""


class DatasetPrepared(RunEvent, frozen=True, kw_only=True):
    """These rows lie in the store, in dataset order, as a MessagePack list of Example."""

    name: ClassVar[str] = "dataset.prepared.v1"
    address: ClassVar[tuple[str, ...]] = ("org", "run_id", "chunk")

    chunk: int
    rows: int
    """Of the whole dataset."""
    key: str
    missing_output: list[int] = []
    """Rows of this chunk without gold output (SFT cannot use them); at most 100 are named."""


class DatasetFailed(RunEvent, frozen=True, kw_only=True):
    """The environment could not give its rows."""

    name: ClassVar[str] = "dataset.failed.v1"
    address: ClassVar[tuple[str, ...]] = ("org", "run_id", "chunk")

    chunk: int
    fault: Fault
