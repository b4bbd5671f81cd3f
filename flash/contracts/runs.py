"""A run's life, and the dataset it works through."""

from typing import Any, ClassVar, Literal

from flash.contracts.base import RunEvent, Scope, Token
from flash.contracts.spec import RunSpec
from flash.contracts.values import Fault


class AttemptEvent(RunEvent, frozen=True, kw_only=True):
    """Something that one attempt at a run comes to; the next one, which `flash resume` begins, may come to it again."""

    address: ClassVar[tuple[str, ...]] = ("org", "run_id", "attempt")

    attempt: int = 1


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


class RunRetried(RunEvent, frozen=True, kw_only=True):
    """A learner was lost, and another has taken the run over."""

    name: ClassVar[str] = "run.retried.v1"
    address: ClassVar[tuple[str, ...]] = ("org", "run_id", "claim")

    claim: int
    """The attempt of the `step.claimed` with which the run changed hands."""
    step: int
    """The last that was finished; -1: not even the start policy was out."""
    reason: str


class RunWarned(AttemptEvent, frozen=True, kw_only=True):
    """Something about the run should be looked at by a person, who may want to stop it."""

    name: ClassVar[str] = "run.warned.v1"
    address: ClassVar[tuple[str, ...]] = ("org", "run_id", "attempt", "kind")

    kind: Literal["all-zero", "no-variance"]
    step: int
    message: str


class RunEvaluated(RunEvent, frozen=True, kw_only=True):
    """A policy of a training run has played every row of its evaluation split."""

    name: ClassVar[str] = "run.evaluated.v1"
    address: ClassVar[tuple[str, ...]] = ("org", "run_id", "step")

    step: int
    """The policy's version."""
    metrics: dict[str, Any]
    """As an evaluation's summary in `run.completed`."""


class RunResumed(AttemptEvent, frozen=True, kw_only=True):
    """A run that had failed or was cancelled is queued again; `attempt` is the one that begins."""

    name: ClassVar[str] = "run.resumed.v1"

    resumed_at: float
    """Seconds since the epoch."""


class RunCancelRequested(AttemptEvent, frozen=True, kw_only=True):
    """Somebody asked to stop."""

    name: ClassVar[str] = "run.cancel-requested.v1"


class RunCompleted(AttemptEvent, frozen=True, kw_only=True):
    """The run did what it was to do."""

    name: ClassVar[str] = "run.completed.v1"

    metrics: dict[str, Any] = {}
    """An evaluation's summary; a training run's last step."""


class RunFailed(AttemptEvent, frozen=True, kw_only=True):
    """The run cannot go on."""

    name: ClassVar[str] = "run.failed.v1"

    reason: str
    fault: Fault | None = None


class RunCancelled(AttemptEvent, frozen=True, kw_only=True):
    """The run stopped because somebody asked; its checkpoints stay."""

    name: ClassVar[str] = "run.cancelled.v1"


class RunDeleted(RunEvent, frozen=True, kw_only=True):
    """Somebody wants nothing to be left of a run that is over. This fact stays: its id is not used again."""

    name: ClassVar[str] = "run.deleted.v1"
    address: ClassVar[tuple[str, ...]] = ("org", "run_id")

    datasets: list[str] = []
    """The folders of the store in which its rows lie, with those of its evaluations: other runs may have the same."""


class DatasetRequested(AttemptEvent, frozen=True, kw_only=True):
    """A run needs these rows rendered by its environment."""

    name: ClassVar[str] = "dataset.requested.v1"
    address: ClassVar[tuple[str, ...]] = ("org", "run_id", "attempt", "scope", "chunk")

    chunk: int
    """Rows `chunk * DATASET_CHUNK` and on."""
    scope: Scope = "train"
    """`eval`: of the split that policies are evaluated on."""


class DatasetPrepared(RunEvent, frozen=True, kw_only=True):
    """These rows lie in the store, in dataset order, as a MessagePack list of Example."""

    name: ClassVar[str] = "dataset.prepared.v1"
    address: ClassVar[tuple[str, ...]] = ("org", "run_id", "scope", "chunk")

    chunk: int
    scope: Scope = "train"
    """`eval`: of the split that policies are evaluated on."""
    rows: int
    """Of the whole dataset."""
    key: str
    missing_output: list[int] = []
    """Rows of this chunk without gold output (SFT cannot use them); at most 100 are named."""


class DatasetFailed(AttemptEvent, frozen=True, kw_only=True):
    """The environment could not give its rows."""

    name: ClassVar[str] = "dataset.failed.v1"
    address: ClassVar[tuple[str, ...]] = ("org", "run_id", "attempt", "scope", "chunk")

    chunk: int
    scope: Scope = "train"
    """`eval`: of the split that policies are evaluated on."""
    fault: Fault


LAST_WORDS: tuple[type[AttemptEvent], ...] = (RunCompleted, RunFailed, RunCancelled)
"""With one of these an attempt is over."""
ENDS: tuple[type[AttemptEvent], ...] = (RunCancelRequested, *LAST_WORDS)
"""With one of these nothing more is wanted of an attempt."""
