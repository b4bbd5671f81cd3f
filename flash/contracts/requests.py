"""What is asked of a service, and what it answers."""

from typing import Annotated, Any, ClassVar

import msgspec
from msgspec import Meta

from flash.contracts.base import Done, FilePart, Request, Role, Token
from flash.contracts.hosting import SealingKey
from flash.contracts.keys import orgs_of
from flash.contracts.spec import RunSpec
from flash.contracts.values import Message, PolicyRef

EnvironmentName = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9._-]*$", max_length=64)]


# hub


class EnvironmentVersion(msgspec.Struct, frozen=True, kw_only=True):
    """One immutable version of an environment."""

    id: str
    """`org/name`."""
    version: str
    digest: str
    key: str
    packed_bytes: int
    published_at: float
    """Seconds since the epoch."""
    rows: dict[str, int] = {}
    """Rows of each split that the check at publishing found."""
    prompt_text: str = ""
    """What the package's own TRAINING_CONTRACT.md says."""
    notes: list[str] = []
    """What that check could not look at, and why."""
    withdrawn_at: float = 0.0
    """Seconds since the epoch; 0: it can be used."""


class EnvironmentUpload(Request, frozen=True, kw_only=True):
    """One part of an archive, before `environment.publish` names it."""

    name: ClassVar[str] = "environment.upload"
    service: ClassVar[str] = "hub"
    reply: ClassVar[type[msgspec.Struct]] = Done

    org: Token
    environment: EnvironmentName
    digest: str
    """sha256 of the whole archive, in hex."""
    part: int
    data: bytes
    """At most 512 KiB."""


class EnvironmentPublish(Request, frozen=True, kw_only=True):
    """The uploaded parts are a version of this environment. The hub asks a scorer to check it first."""

    name: ClassVar[str] = "environment.publish"
    service: ClassVar[str] = "hub"
    reply: ClassVar[type[msgspec.Struct]] = EnvironmentVersion

    org: Token
    environment: EnvironmentName
    digest: str
    parts: int
    params: dict[str, Any] = {}
    """What it is loaded with for the check, and no part of the version."""
    pip: list[str] = []
    """Likewise the requirements."""
    worker_env: dict[str, str] = {}
    """Likewise the variables that are no secrets."""
    sealed: bytes = b""
    """Likewise the secrets, sealed to the scorers' key for this archive; the hub passes them on."""


class EnvironmentResolve(Request, frozen=True, kw_only=True):
    """Which version does `org/name` or `org/name@version` mean?"""

    name: ClassVar[str] = "environment.resolve"
    service: ClassVar[str] = "hub"
    reply: ClassVar[type[msgspec.Struct]] = EnvironmentVersion
    role: ClassVar[Role] = "reader"

    reference: str

    def orgs(self) -> tuple[str, ...]:
        return (self.reference.partition("/")[0],)


class EnvironmentListing(msgspec.Struct, frozen=True, kw_only=True):
    environments: list[EnvironmentVersion]
    """The newest version of each, without its prompt text."""


class EnvironmentFetch(Request, frozen=True, kw_only=True):
    """Give the archive of this version, part by part, some megabytes at a time: ask again for what follows."""

    name: ClassVar[str] = "environment.fetch"
    service: ClassVar[str] = "hub"
    reply: ClassVar[type[msgspec.Struct]] = FilePart
    streams: ClassVar[bool] = True
    role: ClassVar[Role] = "reader"

    reference: str
    """`org/name@version`, as `environment.resolve` gives it; a bare id is the newest."""
    start: int = 0
    """Of the first byte that is wanted."""

    def orgs(self) -> tuple[str, ...]:
        return (self.reference.partition("/")[0],)


class EnvironmentList(Request, frozen=True, kw_only=True):
    """The environments of an organisation, by name."""

    name: ClassVar[str] = "environment.list"
    service: ClassVar[str] = "hub"
    reply: ClassVar[type[msgspec.Struct]] = EnvironmentListing
    streams: ClassVar[bool] = True
    role: ClassVar[Role] = "reader"

    org: Token


# scorer


# scheduler


class RunState(msgspec.Struct, frozen=True, kw_only=True):
    """A run in one line."""

    run_id: str
    state: str
    """queued, planning, running, done, failed, cancelled."""
    algorithm: str
    model: str
    environment: str
    submitted_at: float
    step: int
    steps: int
    reason: str = ""
    name: str = ""
    waiting_for: str = ""
    """What a queued, planning or running run waits for."""
    position: int = 0
    """How many runs must go on or end before it is its turn, itself included; 0: it is not in a queue."""
    attempt: int = 1
    retries: list[str] = []
    """Why the run changed hands, one reason a time."""
    warnings: list[str] = []
    """Of this attempt."""
    ended_at: float = 0.0
    """Seconds since the epoch; 0: not yet."""


class RunSubmit(Request, frozen=True, kw_only=True):
    """Do this. Sent twice with one `run_id`, it is one run."""

    name: ClassVar[str] = "run.submit"
    service: ClassVar[str] = "scheduler"
    reply: ClassVar[type[msgspec.Struct]] = RunState

    spec: RunSpec
    sealed: dict[Token, bytes] = {}
    """Secrets by the service that may open them. They go into the store, and no fact has them."""

    def orgs(self) -> tuple[str, ...]:
        return orgs_of(self.spec)


class RunCancel(Request, frozen=True, kw_only=True):
    name: ClassVar[str] = "run.cancel"
    service: ClassVar[str] = "scheduler"
    reply: ClassVar[type[msgspec.Struct]] = RunState

    org: Token
    run_id: Token


class RunResume(Request, frozen=True, kw_only=True):
    """Reopen a failed or cancelled run from its newest checkpoint."""

    name: ClassVar[str] = "run.resume"
    service: ClassVar[str] = "scheduler"
    reply: ClassVar[type[msgspec.Struct]] = RunState

    org: Token
    run_id: Token
    attempt: int
    """The one that is to begin: asked for twice, it begins once."""


class RunDelete(Request, frozen=True, kw_only=True):
    """Nothing is to be left of a run that is over, and that no live run needs. Asked twice, it is gone once."""

    name: ClassVar[str] = "run.delete"
    service: ClassVar[str] = "scheduler"
    reply: ClassVar[type[msgspec.Struct]] = Done

    org: Token
    run_id: Token


class RunGet(Request, frozen=True, kw_only=True):
    """How does the run stand, and what does it wait for?"""

    name: ClassVar[str] = "run.get"
    service: ClassVar[str] = "scheduler"
    reply: ClassVar[type[msgspec.Struct]] = RunState
    role: ClassVar[Role] = "reader"

    org: Token
    run_id: Token


class RunListing(msgspec.Struct, frozen=True, kw_only=True):
    runs: list[RunState]
    """Newest first."""
    total: int = 0
    """How many such runs there are, limit and offset aside."""


class RunList(Request, frozen=True, kw_only=True):
    name: ClassVar[str] = "run.list"
    service: ClassVar[str] = "scheduler"
    reply: ClassVar[type[msgspec.Struct]] = RunListing
    role: ClassVar[Role] = "reader"

    org: Token
    states: list[str] = []
    """Only those in one of these; empty: all."""
    limit: int = 500
    """At most 500."""
    offset: int = 0


# recorder


class RecorderKey(Request, frozen=True, kw_only=True):
    """To which key is the key of Weights & Biases sealed?"""

    name: ClassVar[str] = "key.fetch"
    service: ClassVar[str] = "recorder"
    reply: ClassVar[type[msgspec.Struct]] = SealingKey


class RecordedEvent(msgspec.Struct, frozen=True, kw_only=True):
    """A fact as the stream holds it."""

    sequence: int
    time: float
    """Seconds since the epoch."""
    subject: str
    caused_by: str
    event: str
    """Its name, e.g. `step.finished.v1`."""
    body: dict[str, Any]
    """The fact's fields; token arrays of `group.*` are left out."""


class EventsPage(msgspec.Struct, frozen=True, kw_only=True):
    events: list[RecordedEvent]
    """In order."""
    upto: int
    """Ask again with `after` = this."""
    more: bool
    """There is more to read right now."""


class EventsFind(Request, frozen=True, kw_only=True):
    """What has been said about a run after a position of the stream?"""

    name: ClassVar[str] = "events.find"
    service: ClassVar[str] = "recorder"
    reply: ClassVar[type[msgspec.Struct]] = EventsPage
    role: ClassVar[Role] = "reader"

    org: Token
    run_id: Token
    after: int = 0
    nouns: list[str] = []
    """E.g. `run`, `step`; empty: all but `group`."""
    step: int | None = None
    """Only what is about this step."""
    wait_s: float = 0.0
    """How long to wait for news if there is none yet."""


# rollout


class GeneratedText(msgspec.Struct, frozen=True, kw_only=True):
    """A piece of an answer."""

    text: str
    """What came since the last piece."""
    finish_reason: str = ""
    """Set on the last piece: `stop` or `length`."""
    prompt_tokens: int = 0
    completion_tokens: int = 0


class Generate(Request, frozen=True, kw_only=True):
    """Continue this conversation."""

    name: ClassVar[str] = "generate"
    service: ClassVar[str] = "rollout"
    reply: ClassVar[type[msgspec.Struct]] = GeneratedText
    streams: ClassVar[bool] = True
    route: ClassVar[str | None] = "pool"

    pool: Token
    policy: PolicyRef
    messages: list[Message]
    temperature: float = 1.0
    max_tokens: int = 320
    stop_sequences: list[str] = []
    seed: int = 0
    thinking: bool = False
