"""What happens in an episode, and what it earns: the values that environments take and give."""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from envsdk.examples import Message


@dataclass(frozen=True)
class EnvironmentTurn:
    """One message of an episode."""

    role: str
    content: str
    name: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)

    def to_message(self) -> Message:
        return {"role": self.role, "content": self.content}

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class EnvironmentStepResult:
    """What follows an action of the policy."""

    done: bool = True
    messages: tuple[Message, ...] = ()
    """Appended to the transcript before the policy acts again."""
    final_response_text: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class EnvironmentEpisode:
    """A played episode."""

    messages: tuple[Message, ...]
    response_text: str
    """The final response if a step gave one, else the last assistant text."""
    turns: tuple[EnvironmentTurn, ...] = ()
    metadata: dict[str, Any] = field(default_factory=dict)
    """`steps`: every step's metadata that is not empty."""
    latency_ms: float | None = None
    """From its opening to the end of its last step."""
    total_tokens: int | None = None
    """What the policy wrote in all its turns; None where nobody counted."""


@dataclass(frozen=True)
class RewardMetric:
    """A figure beside the reward: logged by name, never added to it."""

    name: str
    score: float | None = None
    value: Any = None
    success: bool | None = None
    threshold: float | None = None
    weight: float | None = None
    reason: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class RewardResult:
    """What a response earned. `score` is what training climbs."""

    score: float
    metadata: dict[str, Any] = field(default_factory=dict)
    name: str = "environment_reward"
    success: bool | None = None
    threshold: float | None = None
    value: Any = None
    reason: str | None = None
    error: str | None = None
    """A remark that something went wrong; the score counts all the same. To have no score count, raise."""
    return_type: Literal["numeric", "binary"] = "numeric"
    metrics: tuple[RewardMetric, ...] = ()
    latency_ms: float | None = None
    total_tokens: int | None = None

    def resolved_success(self) -> bool:
        if self.success is not None:
            return self.success
        if self.error:
            return False
        return self.score >= self.threshold if self.threshold is not None else self.score > 0

    def resolved_value(self) -> Any:
        if self.value is not None:
            return self.value
        return self.resolved_success() if self.return_type == "binary" else self.score
