"""What a GRPO run did, as the other sides of the step bench need it. msgspec and contracts only."""

from pathlib import Path
from typing import Any, TypeVar

import msgspec

from flash.contracts.groups import GroupScored
from flash.contracts.packing import unpack_floats, unpack_ids
from flash.contracts.spec import RunSpec
from flash.contracts.steps import StepFinished

T = TypeVar("T")

ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")


class Run(msgspec.Struct, frozen=True):
    """A run whose adapters lie in `adapters`, each in a folder named by its digest."""

    spec: RunSpec
    model: str
    """The base model's folder."""
    adapters: str
    finished: dict[int, StepFinished]
    """By step; 0 is the start policy."""
    groups: dict[int, list[GroupScored]]
    """By step, in the order of their index."""

    @property
    def start(self) -> Path:
        return self.adapter(self.finished[0].policy.digest)

    @property
    def tokens(self) -> int:
        """Drawn in all steps."""
        return sum(len(r.mask) for groups in self.groups.values() for group in groups for r in group.rollouts)

    def adapter(self, digest: str) -> Path:
        return Path(self.adapters) / digest

    def messages(self) -> list[list[dict[str, Any]]]:
        """The prompt of every group, in order."""
        return [group.example.messages for groups in self.groups.values() for group in groups]


class Group(msgspec.Struct, frozen=True):
    """A prompt and its answers as plain lists."""

    prompt: list[int]
    answers: list[list[int]]
    """As drawn, the closing token included."""
    logprobs: list[list[float]]
    """The sampler's."""
    advantages: list[float]
    taught: list[bool]
    """False for an answer that was left out of the loss: faulted, or cut at `max_tokens`."""


def plain(group: GroupScored, advantages: list[float]) -> Group:
    return Group(
        prompt=unpack_ids(group.prompt_ids),
        answers=[unpack_ids(rollout.token_ids) for rollout in group.rollouts],
        logprobs=[unpack_floats(rollout.logprobs) for rollout in group.rollouts],
        advantages=advantages,
        taught=[rollout.finish_reason == "stop" and rollout.fault is None for rollout in group.rollouts],
    )


def write(file: Path, run: Run) -> None:
    file.write_bytes(msgspec.msgpack.encode(run))


def read(file: str) -> Run:
    return msgspec.msgpack.decode(Path(file).read_bytes(), type=Run)
