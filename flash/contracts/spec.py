"""What a run is to do, resolved: nothing left to default, look up or ask."""

from typing import Any, Literal

import msgspec

from flash.contracts.base import Scope, Token
from flash.contracts.values import PolicyRef

Algorithm = Literal["sft", "grpo", "eval"]


class EnvironmentSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One immutable version of an author's package, and how to load it."""

    id: str
    """`org/name`."""
    version: Token
    """The first 12 hex digits of `digest`."""
    digest: str
    """sha256 of the archive, in hex."""
    key: str
    """Where the archive lies in the store."""
    params: dict[str, Any] = {}
    """What `load_environment` is called with."""
    pip: list[str] = []
    """The requirements of the set that it is loaded with, in normal form."""
    network: list[str] = []
    """`host` or `host:port`: the only places that it may reach."""
    worker_env: dict[str, str] = {}
    """Environment variables that it is given, as they were written."""
    secrets: list[str] = []
    """Names of environment variables that it is given; their values are sealed, and lie elsewhere."""


class SamplingSpec(msgspec.Struct, frozen=True, kw_only=True):
    """How a group is drawn."""

    group_size: int
    temperature: float
    max_tokens: int
    stop_sequences: list[str] = []


class TrainSpec(msgspec.Struct, frozen=True, kw_only=True):
    """How the adapter is trained; the units and meanings are those of the run config."""

    lora_rank: int
    lora_alpha: int
    learning_rate: float
    batch_size: int
    """SFT: sequences; GRPO: prompts; per step."""
    max_length: int
    """Tokens a sequence may have, prompt included."""
    save_every: int
    init_from_adapter: PolicyRef | None = None
    epochs: int = 1
    max_steps: int = 0
    max_examples: int = 0
    steps: int = 0
    kl_penalty_coef: float = 0.0
    advantage_clip: float = 0.0
    """Recorded, no effect."""
    thinking_length_penalty_coef: float = 0.0
    """What each token of a thought takes from the reward."""
    max_lag: int = 1
    loss: Literal["dr_grpo"] = "dr_grpo"
    importance_correction: Literal["truncate", "none"] = "truncate"
    credit: Literal["episode"] = "episode"
    max_faults: float = 0.2
    eval_every: int = 0
    """Steps from one evaluation of the policy to the next; the start and the end are evaluated too. 0: none."""
    eval_split: str = "eval"
    eval_sampling: SamplingSpec | None = None
    """How a policy plays then; None where none is evaluated."""


class PlatformSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What the platform decides, by the settings of its scheduler: no knobs of a run."""

    resources: str = ""
    """The pool whose replicas work at the run."""
    storage: str = ""
    """Under which prefix of the store everything of the run lies."""
    retries: int = 5
    """How many learners may take the run, one after the other, without finishing a step."""
    wall_clock_s: float = 86_400.0
    """How long an attempt may take from its start."""
    warn_flat_steps: int = 3
    """After so many steps in a row in which no group had anything to learn from, a person is warned."""
    stop_flat_steps: int = 20
    """After so many, and `stop_flat_rollouts`, the run fails."""
    stop_flat_rollouts: int = 1_000


class WandbSpec(msgspec.Struct, frozen=True, kw_only=True):
    """How a run is shown on Weights & Biases, where a key came with it."""

    project: str
    run_name: str = ""
    """Empty: as the run is called."""


class RunSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A run, as the scheduler accepted it. Stored under `runs/<run>/spec.json`."""

    org: Token
    run_id: Token
    algorithm: Algorithm
    model: str
    pool: Token
    """Which rollouts and learners work at it: those that serve its base model."""
    seed: int
    environment: EnvironmentSpec
    split: str
    """Which rows: `train`, `eval`, or a name of the author's."""
    prompt_text: str = ""
    """The system text, from the params or the package."""
    thinking: bool = False
    sampling: SamplingSpec | None = None
    """None for SFT, which samples nothing."""
    train: TrainSpec | None = None
    """None for an evaluation, which trains nothing."""
    policy: PolicyRef = PolicyRef()
    """What an evaluation evaluates."""
    reference: str = ""
    """How people name that policy: a base model, or `RUN/step-N`."""
    max_examples: int = 0
    """How many rows an evaluation plays; 0: all."""
    wandb: WandbSpec | None = None
    name: str = ""
    tags: list[str] = []
    note: str = ""
    platform: PlatformSpec = PlatformSpec()

    def of(self, scope: Scope) -> "RunSpec":
        """The spec as its groups of a scope see it: those that evaluate a training run's policies are rows of its
        evaluation split, and sampled in their own way.
        """
        if scope == "train" or self.train is None:
            return self
        return msgspec.structs.replace(self, split=self.train.eval_split, sampling=self.train.eval_sampling)
