"""What an engine does: token ids in, token ids and their log-probabilities out. `torch` runs anywhere, `vllm` is fast.

Samples are drawn at top_p 1 and no top_k, so that sampler and trainer speak of the same distribution.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from flash.errors import FlashError

OnText = Callable[[int, str], None]
"""Called on the event loop with the index of a sample and what it has said since the last call."""


@dataclass(frozen=True)
class Adapter:
    """LoRA weights that lie on this machine, in PEFT's format."""

    digest: str
    """sha256 of `adapter_model.safetensors`: no two adapters share it."""
    folder: Path


@dataclass(frozen=True)
class SampleRequest:
    """One prompt, to be continued once per seed."""

    prompt_ids: tuple[int, ...]
    seeds: tuple[int, ...]
    """One a sample, each from 0 to 2^64 - 1. A sample depends on its own seed and on nothing else in the batch, but
    for the rounding of floats."""
    temperature: float
    """0: the likeliest token, always."""
    max_tokens: int
    """Cut to what the model's context leaves after the prompt."""
    stop: tuple[str, ...] = ()
    """A sample ends as soon as its text holds one of these."""
    adapter: Adapter | None = None
    """None: the bare base model."""
    schema: str = ""
    """A JSON schema that each sample's text follows as far as it goes; what is drawn from, and its log-probabilities,
    is what the schema leaves of the distribution. Empty: anything may be said."""


@dataclass(frozen=True)
class Sample:
    """One continuation. T tokens."""

    token_ids: list[int]
    """[T] exactly as drawn, the closing token included."""
    logprobs: list[float]
    """[T] in nats, of the distribution that was drawn from: log_softmax(logits / temperature). At temperature 0, which
    is no distribution, log_softmax(logits)."""
    text: str
    """Decoded without special tokens; cut before a stop string, of which `token_ids` keep what was drawn."""
    finish_reason: Literal["stop", "length"]
    """`stop`: a closing token or a stop string; `length`: neither within max_tokens."""


class Engine(Protocol):
    """A base model, ready to be sampled with and without adapters."""

    @property
    def context(self) -> int:
        """How many tokens a prompt and its continuation may have together."""

    async def start(self) -> None:
        """Load the model. Raises what loading raises."""

    async def sample(self, request: SampleRequest, on_text: OnText | None = None) -> list[Sample]:
        """The samples in the order of the seeds. Calls made at the same time run as one batch.

        Cancelling the call frees its rows. Raises GenerationFailed when asking again would not help, and ValueError
        for a prompt that is empty or leaves no room in the context, and for what is no JSON schema.
        """

    def expect(self, adapter: Adapter) -> None:
        """Somebody will sample with it soon, and whoever can has it in memory by then. What is wrong with it is told
        when it is sampled.
        """

    async def sleep(self) -> None:
        """Give the memory of weights and cache on a GPU back, until somebody samples: that begins a moment later then.

        Nothing happens while something is being drawn.
        """

    async def close(self) -> None:
        """Give the model's memory back; samples still being drawn fail."""


class GenerationFailed(FlashError):
    """This model with this adapter cannot answer, however often it is asked."""
