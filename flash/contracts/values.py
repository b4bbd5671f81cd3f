"""The plain values that events carry."""

from typing import Any, Literal

import msgspec

Message = dict[str, Any]
"""One chat message: `role`, `content`, and what tools add."""

FaultKind = Literal[
    "raised", "timed-out", "crashed", "limit-exceeded", "invalid-result", "load-failed", "generation-failed"
]


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """Author code or generation failed: data, never a silent 0.0."""

    kind: FaultKind
    message: str
    """One sentence: what happened."""
    traceback: str = ""
    """The author's own frames, where there are any."""


class PolicyRef(msgspec.Struct, frozen=True, kw_only=True):
    """Which weights: a base model with or without an adapter."""

    version: int = 0
    """The step that made it; 0 is the start."""
    key: str = ""
    """The folder of the adapter in the store; empty for the bare base model."""
    digest: str = ""
    """sha256 of the adapter's weights, in hex; empty for the bare base model."""


class Example(msgspec.Struct, frozen=True, kw_only=True):
    """A dataset row as the environment presents it."""

    index: int
    """Its place in the dataset."""
    id: str
    input: str
    output: Any = None
    metadata: dict[str, Any] = {}
    record: Any = None
    """The untouched row."""
    messages: list[Message] = []
    """What the policy is shown: the environment's opening of an episode."""
    completion: list[Message] | None = None
    """The gold turns that follow it; None where the row has no output."""
    max_turns: int | None = None
    """How many actions the policy has in an episode; None: a single turn, whose text is scored."""


class Metric(msgspec.Struct, frozen=True, kw_only=True):
    """A figure that an environment names; logged, never added to the reward."""

    name: str
    score: float | None = None
    value: Any = None
    success: bool | None = None
    weight: float | None = None
    reason: str | None = None


class Turn(msgspec.Struct, frozen=True, kw_only=True):
    """One action of the policy in an episode."""

    tokens: int
    """How many it wrote, the closing one included."""
    finish_reason: Literal["stop", "length"]
    took_s: float = 0.0
    """From asking for it to what the environment made of it."""


class Rollout(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt of the policy at an example. T tokens follow the prompt."""

    token_ids: bytes = b""
    """[T] packed int32, exactly as sampled, the closing token included."""
    logprobs: bytes = b""
    """[T] packed float32: the sampler's, in nats, at the temperature it sampled with; 0.0 where `mask` is 0."""
    mask: bytes = b""
    """[T] one byte a token: 1 where the policy wrote it, 0 for what the environment added."""
    text: str = ""
    """What the policy said, decoded, without special tokens; of an episode the last turn."""
    finish_reason: Literal["stop", "length", "fault"] = "stop"
    """`length`: cut at max_tokens, or by the model's context."""
    messages: list[Message] = []
    """What followed the opening of an episode: the policy's turns, the environment's, those of tools."""
    turns: list[Turn] = []
    """The policy's turns of an episode."""
    thinking_tokens: int | None = None
    """How many tokens it thought, think tags not counted; None where the run does not think."""
    fault: Fault | None = None


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What the environment made of one rollout."""

    reward: float | None = None
    """None where `fault` says why there is none."""
    success: bool | None = None
    metrics: list[Metric] = []
    metadata: dict[str, Any] = {}
    error: str | None = None
    """The environment's own remark that something went wrong although it gave a score."""
    output: str = ""
    """What the author's code printed, cut to a bounded length."""
    took_s: float = 0.0
    """How long the author's code worked at it; of a comparing one, at the whole group. 0.0 where it did not end."""
    fault: Fault | None = None
