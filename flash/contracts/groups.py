"""The unit of generating, scoring and learning: G rollouts of one example."""

from typing import ClassVar

from flash.contracts.base import RunEvent, Scope, Token
from flash.contracts.values import Example, PolicyRef, Rollout, Verdict


class GroupEvent(RunEvent, frozen=True, kw_only=True):
    """Something that has happened to one group."""

    scope: Scope
    step: int
    group: int
    """Its index within the step; (scope, step, group) is the group's id."""

    @property
    def group_id(self) -> str:
        return f"{self.scope}-{self.step}-{self.group}"


class GroupRequested(GroupEvent, frozen=True, kw_only=True):
    """A step needs a group of this example."""

    name: ClassVar[str] = "group.requested.v1"
    address: ClassVar[tuple[str, ...]] = ("pool", "org", "run_id", "attempt", "scope", "step", "group")
    wire = "msgpack"

    pool: Token
    attempt: int
    example: Example
    policy: PolicyRef
    """The oldest policy that will do; a rollout takes the newest it knows."""


class GroupGenerated(GroupEvent, frozen=True, kw_only=True):
    """The policy has played the example G times."""

    name: ClassVar[str] = "group.generated.v1"
    address: ClassVar[tuple[str, ...]] = ("org", "run_id", "attempt", "scope", "step", "group")
    wire = "msgpack"

    attempt: int = 1
    """That of the request. What an earlier one left unscored is told again, as it was, and not sampled again."""
    example: Example
    policy: PolicyRef
    """The one that sampled."""
    prompt_ids: bytes
    """Packed int32."""
    rollouts: list[Rollout]
    """[G]"""
    prompt_opened: bool = False
    """The rendered prompt ended inside a `<think>`, so what the policy wrote begins with a thought."""
    verdicts: list[Verdict] = []
    """[G] of episodes, which are scored where they were played; empty: a scorer is to score the texts."""
    replica: str = ""
    took_s: float = 0.0


class GroupScored(GroupEvent, frozen=True, kw_only=True):
    """Every rollout of the group has its reward, or a fault. All of `group.generated` again, so that nobody joins."""

    name: ClassVar[str] = "group.scored.v1"
    address: ClassVar[tuple[str, ...]] = ("org", "run_id", "scope", "step", "group")
    wire = "msgpack"

    example: Example
    policy: PolicyRef
    prompt_ids: bytes
    rollouts: list[Rollout]
    """[G]"""
    prompt_opened: bool = False
    verdicts: list[Verdict]
    """[G]"""
    environment_version: str = ""
    replica: str = ""
    took_s: float = 0.0


class GroupCancelled(GroupEvent, frozen=True, kw_only=True):
    """The attempt that wanted the group is over: somebody has dropped it."""

    name: ClassVar[str] = "group.cancelled.v1"
    address: ClassVar[tuple[str, ...]] = ("org", "run_id", "attempt", "scope", "step", "group")

    attempt: int
