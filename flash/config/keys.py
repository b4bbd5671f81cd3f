"""The keys of a run config, with their types, limits and defaults: the TOML that a person writes."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

SPLIT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
DESTINATION = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?\.?)(:[0-9]{1,5})?")
ENVIRONMENT_ID = re.compile(r"(?P<org>[A-Za-z0-9_-]+)/(?P<name>[a-z0-9][a-z0-9._-]*)(@(?P<version>[0-9a-f]+))?")


class Section(BaseModel):
    """A table of the config: nothing unknown, no value of another type than the one it wants."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)


class Environment(Section):
    """Which author's package, and how it is loaded."""

    id: str = ""
    """`org/name`, or `org/name@version`; a bare id means the newest version when the run is submitted."""
    params: dict[str, Any] = {}
    """What `load_environment` is called with; part of the run's spec."""
    pip: list[str] = []
    """Packages that it imports and does not bring along: names, with versions, extras and markers if need be. They are
    installed before it is loaded. Nothing inside the package (`requirements.txt`, a lock file) is."""
    network: list[str] = []
    """`host` or `host:port`: the only places that it may reach, and within those what the operator allows."""


class Train(Section):
    """Knobs that every algorithm knows."""

    lora_rank: int | None = Field(32, ge=1)
    """None, which nobody writes: as the adapter that the run starts from."""
    lora_alpha: int | None = Field(64, ge=1)
    learning_rate: float = Field(1e-4, gt=0)
    batch_size: int = Field(32, ge=1)
    max_length: int = Field(1_024, ge=2)
    """Tokens a sequence may have, prompt included."""
    save_every: int = Field(50, ge=1)
    """Steps from one checkpoint to the next; the last step is always saved."""
    init_from_adapter: str | None = None
    """`RUN`, `RUN/final` or `RUN/step-N`: begin with the adapter of that checkpoint."""
    max_faults: float = Field(0.2, ge=0, le=1)
    """The share of faulted rollouts, over three steps, that fails the run."""


class SftTrain(Train):
    """Imitate the gold answers."""

    epochs: int = Field(2, ge=1)
    max_steps: int = Field(0, ge=0)
    """0: no cap."""
    max_examples: int = Field(0, ge=0)
    """0: every row."""


def _one_or_many(value: object) -> object:
    texts = [value] if isinstance(value, str) else value
    return [text for text in texts if text != ""] if isinstance(texts, list) else texts


class GrpoTrain(Train):
    """Learn from the reward, rollouts of one example against each other."""

    learning_rate: float = Field(1e-5, gt=0)
    batch_size: int = Field(64, ge=1)
    """Prompts per step, each played `group_size` times."""
    max_length: int = Field(2_368, ge=2)
    save_every: int = Field(20, ge=1)
    steps: int = Field(150, ge=1)
    group_size: int = Field(8, ge=2)
    temperature: float = Field(1.0, ge=0)
    max_tokens: int = Field(320, ge=1)
    """Tokens of an answer, reasoning included."""
    kl_penalty_coef: float = Field(0.0, ge=0)
    advantage_clip: float = Field(0.0, ge=0)
    """Recorded, no effect: the ratio is clipped, not the advantage."""
    thinking_length_penalty_coef: float = Field(0.0, ge=0, le=1)
    """What each token of a thought takes from the reward: reward -= coef × tokens inside the think span."""
    stop_sequences: Annotated[list[str], BeforeValidator(_one_or_many)] = []
    """One text is one stop sequence."""
    max_lag: int = Field(1, ge=0)
    """How many steps the sampling policy may be behind; 0: strictly on-policy."""
    loss: Literal["dr_grpo"] = "dr_grpo"
    importance_correction: Literal["truncate", "none"] = "truncate"


ALGORITHMS: Mapping[str, type[SftTrain] | type[GrpoTrain]] = {"sft": SftTrain, "grpo": GrpoTrain}


class RunConfig(Section):
    """A run as its author wants it, every knob filled in."""

    model: str
    algorithm: Literal["sft", "grpo"] = "sft"
    thinking: bool = False
    """The policy reasons between `<think>` tags before it answers."""
    seed: int = Field(42, ge=0, lt=2**63)
    """Of every shuffle and sampler."""
    name: str = ""
    tags: list[str] = []
    note: str = ""
    environment: Environment = Environment()
    train: SftTrain | GrpoTrain
