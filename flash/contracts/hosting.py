"""What scorers are asked: to check an environment, to play its episodes, and the key that secrets are sealed to."""

from typing import Any, ClassVar

import msgspec

from flash.contracts.base import Done, Request, Role, Scope, Token
from flash.contracts.keys import environment_org
from flash.contracts.values import Example, Fault, Message, Verdict


class CheckReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a clean process found when it loaded an environment."""

    rows: dict[str, int] = {}
    """Rows of each split that was found."""
    fault: Fault | None = None
    notes: list[str] = []
    prompt_text: str = ""
    """What the package's own TRAINING_CONTRACT.md says."""


class EnvironmentCheck(Request, frozen=True, kw_only=True):
    """Does this archive load, and are its rows sound?"""

    name: ClassVar[str] = "environment.check"
    service: ClassVar[str] = "scorer"
    reply: ClassVar[type[msgspec.Struct]] = CheckReport

    key: str
    digest: str
    params: dict[str, Any] = {}
    pip: list[str] = []
    worker_env: dict[str, str] = {}
    sealed: bytes = b""
    """Its secrets, sealed to the scorers' key for this archive; empty: it is given none."""

    def orgs(self) -> tuple[str, ...]:
        return (environment_org(self.key),)


class SealingKey(msgspec.Struct, frozen=True, kw_only=True):
    """What only this pool can open is sealed to it: see `flash.secrets`."""

    public: bytes
    """X25519, 32 bytes."""


class ScorerKey(Request, frozen=True, kw_only=True):
    """To which key are the secrets of environments sealed?"""

    name: ClassVar[str] = "key.fetch"
    service: ClassVar[str] = "scorer"
    reply: ClassVar[type[msgspec.Struct]] = SealingKey


class Opening(msgspec.Struct, frozen=True, kw_only=True):
    """How an episode begins, or why it cannot."""

    messages: list[Message] = []
    fault: Fault | None = None


class EpisodesStarted(msgspec.Struct, frozen=True, kw_only=True):
    """Who plays the environment's part, from now on."""

    replica: str = ""
    """The scorer that holds the episodes; empty: none was opened."""
    episodes: str = ""
    """What they are called there, all together."""
    openings: list[Opening] = []
    """One an episode."""
    compared: bool = False
    """The environment compares them when it scores, so they stay together whatever happens."""
    alone: bool = False
    """None was opened: the environment wants each episode by itself."""
    fault: Fault | None = None
    """None was opened: the environment cannot be loaded. Without it, there was no room: ask again soon."""


class EpisodeStart(Request, frozen=True, kw_only=True):
    """Open some episodes of one example, in one process until they are scored or their lease ends."""

    name: ClassVar[str] = "episode.start"
    service: ClassVar[str] = "scorer"
    reply: ClassVar[type[msgspec.Struct]] = EpisodesStarted
    role: ClassVar[Role] = "operator"

    run_id: Token
    example: Example
    count: int
    scope: Scope = "train"


class HeldRequest(Request, frozen=True, kw_only=True):
    """Something about open episodes. Raises NotFound where they are gone: then they begin anew."""

    route: ClassVar[str | None] = "replica"
    role: ClassVar[Role] = "operator"

    replica: Token
    """Who holds them."""
    episodes: Token


class Stepped(msgspec.Struct, frozen=True, kw_only=True):
    """What follows an action of the policy."""

    messages: list[Message] = []
    done: bool = True
    fault: Fault | None = None
    """This episode has failed; the others go on."""


class EpisodeStep(HeldRequest, frozen=True, kw_only=True):
    """The policy has acted. Asked twice, it is answered as at first."""

    name: ClassVar[str] = "episode.step"
    service: ClassVar[str] = "scorer"
    reply: ClassVar[type[msgspec.Struct]] = Stepped

    index: int
    """Which of the episodes."""
    turn: int
    """From 0."""
    text: str
    prompt_opened: bool = False
    """What the policy was shown ended inside a `<think>`."""
    truncated: bool = False
    """It was cut before it was done."""
    tokens: int | None = None
    """How many the policy wrote, the closing one included; None where nobody counted."""


class EpisodesScored(msgspec.Struct, frozen=True, kw_only=True):
    verdicts: list[Verdict | None]
    """In the order asked for; None: the process died before this one was scored."""


class EpisodeScore(HeldRequest, frozen=True, kw_only=True):
    """They are over: what do they earn? Asked twice, it is answered as at first."""

    name: ClassVar[str] = "episode.score"
    service: ClassVar[str] = "scorer"
    reply: ClassVar[type[msgspec.Struct]] = EpisodesScored

    indices: list[int]


class EpisodeRenew(HeldRequest, frozen=True, kw_only=True):
    """They are still being played."""

    name: ClassVar[str] = "episode.renew"
    service: ClassVar[str] = "scorer"
    reply: ClassVar[type[msgspec.Struct]] = Done


class EpisodeClose(HeldRequest, frozen=True, kw_only=True):
    """Nobody plays them any more."""

    name: ClassVar[str] = "episode.close"
    service: ClassVar[str] = "scorer"
    reply: ClassVar[type[msgspec.Struct]] = Done
