"""The keys of a run config, with their types, limits and defaults: the TOML that a person writes."""

import re
from collections.abc import Iterator, Mapping, Sequence
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

MOST = 1_000_000_000
"""Of anything that is counted: what is larger is a slip of the hand, and need not fit everywhere."""
SPLIT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_LABEL = "[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?"
DESTINATION = re.compile(
    rf"(\[(?P<address>[0-9A-Fa-f:.]+)\]|(?=[^:]{{1,253}}(:|$)){_LABEL}(\.{_LABEL})*\.?)(:(?P<port>[0-9]{{1,5}}))?"
)


class Section(BaseModel):
    """A table of the config: nothing unknown, no value of another type than the one it wants."""

    model_config = ConfigDict(
        strict=True, frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True
    )


class Environment(Section):
    """Which author's package, and how it is loaded."""

    id: str = ""
    """`org/name`, or `org/name@version`, as `flash env push` prints it; a bare id means the newest version when the run
    is submitted."""
    params: dict[str, Any] = {}
    """What `load_environment` is called with; part of the run's spec, so nothing secret."""
    pip: list[str] = []
    """Packages that it imports and does not bring along: names, with versions, extras and markers if need be. They are
    installed before it is loaded. Nothing inside the package (`requirements.txt`, a lock file) is."""
    network: list[str] = []
    """`host` or `host:port`: the only places that it may reach, and within those what the operator allows."""
    secrets: list[str] = []
    """Names of environment variables that it is given. Their values are read from the shell, `.env` or `.env.local`
    when the run is submitted, and are part of nothing that is written."""


class Train(Section):
    """Knobs that every algorithm knows."""

    # None, which nobody writes: as the adapter that the run starts from.
    lora_rank: int | None = Field(32, ge=1, le=MOST)
    """Rank of the adapter: at most what the model can be served with. After a warm start, that of the adapter."""
    lora_alpha: int | None = Field(64, ge=1, le=MOST)
    """Scale of the adapter: what it says is multiplied by alpha / rank. After a warm start, that of the adapter."""
    learning_rate: float = Field(1e-4, gt=0)
    """Of AdamW: constant for GRPO, after a warm-up over 3 % of the steps for SFT."""
    batch_size: int = Field(32, ge=1, le=MOST)
    """Sequences per step."""
    max_length: int = Field(1_024, ge=2, le=MOST)
    """Tokens a sequence may have, prompt included: at most the model's context."""
    save_every: int = Field(50, ge=1, le=MOST)
    """Steps from one checkpoint to the next; the last step is always saved."""
    init_from_adapter: str | None = None
    """`RUN`, `RUN/final` or `RUN/step-N`: begin with the adapter of that checkpoint."""
    max_faults: float = Field(0.2, ge=0, le=1)
    """The share of faulted rollouts, over three steps, that fails the run."""
    eval_every: int = Field(0, ge=0, le=MOST)
    """Steps from one evaluation of the policy to the next, on every row of `eval_split`, once each; the policy that the
    run starts from and the last one are evaluated too. 0: none is."""
    eval_split: str = "eval"
    """The rows that policies are evaluated on: `dataset/SPLIT.jsonl` of the package."""


class SftTrain(Train):
    """Imitate the gold answers."""

    epochs: int = Field(2, ge=1, le=MOST)
    """How often each row is learnt from."""
    max_steps: int = Field(0, ge=0, le=MOST)
    """Steps after which the run ends whatever `epochs` says; 0: no cap."""
    max_examples: int = Field(0, ge=0, le=MOST)
    """How many rows are learnt from, the first ones; 0: all."""


def _one_or_many(value: object) -> object:
    texts = [value] if isinstance(value, str) else value
    return [text for text in texts if text != ""] if isinstance(texts, list) else texts


class GrpoTrain(Train):
    """Learn from the reward, rollouts of one example against each other."""

    learning_rate: float = Field(1e-5, gt=0)
    """Of AdamW: constant for GRPO, after a warm-up over 3 % of the steps for SFT."""
    batch_size: int = Field(64, ge=1, le=MOST)
    """Prompts per step, each played `group_size` times."""
    max_length: int = Field(2_368, ge=2, le=MOST)
    """Tokens a sequence may have, prompt included: at most the model's context."""
    save_every: int = Field(20, ge=1, le=MOST)
    """Steps from one checkpoint to the next; the last step is always saved."""
    steps: int = Field(150, ge=1, le=MOST)
    """Updates of the policy."""
    group_size: int = Field(8, ge=2, le=1_024)
    """Attempts at each prompt, which are compared with each other."""
    temperature: float = Field(1.0, ge=0)
    """Of sampling; 0 takes the likeliest token always."""
    max_tokens: int = Field(320, ge=1, le=MOST)
    """Tokens of an answer, reasoning included."""
    kl_penalty_coef: float = Field(0.0, ge=0)
    """How strongly the policy is held to the base model; 0: not at all."""
    advantage_clip: float = Field(0.0, ge=0)
    """Recorded, no effect: the ratio is clipped, not the advantage."""
    thinking_length_penalty_coef: float = Field(0.0, ge=0, le=1)
    """What each token of a thought takes from the reward: reward -= coef × tokens inside the think span."""
    stop_sequences: Annotated[list[str], BeforeValidator(_one_or_many)] = []
    """Texts that end an answer; a single text is one of them."""
    max_lag: int = Field(1, ge=0, le=MOST)
    """How many steps the sampling policy may be behind; 0: strictly on-policy."""
    loss: Literal["dr_grpo"] = "dr_grpo"
    """Reward less the group's mean, not divided by its deviation, normalised by a constant length."""
    importance_correction: Literal["truncate", "none"] = "truncate"
    """What is done where sampler and trainer put a token at different odds: the ratio is capped, or left alone."""
    credit: Literal["episode"] = "episode"
    """Every token of a rollout gets the advantage of the whole."""


class Wandb(Section):
    """Show the run on Weights & Biases: with the `WANDB_API_KEY` of whoever submits it, from the shell or `.env`."""

    project: str = "flash"
    """Of the account that the key belongs to; made when it is not there."""
    run_name: str = ""
    """What the run is called there. Empty: its `name`, else its id."""


ALGORITHMS: Mapping[str, type[SftTrain] | type[GrpoTrain]] = {"sft": SftTrain, "grpo": GrpoTrain}


class RunConfig(Section):
    """A run as its author wants it, every knob filled in."""

    model: str
    """The base model: a name that `flash models` lists; under `model_policy = "allow"` also a Hugging Face id of a
    causal model, or a folder written as a path."""
    algorithm: Literal["sft", "grpo"] = "sft"
    """`sft` imitates the rows' outputs, `grpo` learns from the reward."""
    thinking: bool = False
    """The policy reasons between `<think>` tags before it answers. A model that always reasons needs true."""
    seed: int = Field(42, ge=0, lt=2**63)
    """Of every shuffle and sampler."""
    model_policy: Literal["catalogue", "allow"] = "catalogue"
    """Which models are taken: those that `flash models` lists, or any."""
    name: str = ""
    """What people call the run."""
    tags: list[str] = []
    """Words to find it by."""
    note: str = ""
    """Why it was made."""
    environment: Environment = Environment()
    train: SftTrain | GrpoTrain
    wandb: Wandb | None = None
    """Shown there where this table is written, be it empty."""
    worker_env: dict[str, str] = {}
    """Environment variables that the environment sees, as they are written here: harmless labels and switches. They are
    part of the run's spec; what is secret belongs in `environment.secrets`."""


def is_text(path: Sequence[str]) -> bool:
    """Is it a text that stands at this path of a config, whatever it looks like?"""
    kinds: list[Any] = [RunConfig]
    for key in path:
        kinds = [inner for kind in kinds for inner in _under(kind, key)]
    return bool(kinds) and all(kind in (str, NoneType) for kind in kinds)


def _under(kind: Any, key: str) -> Iterator[Any]:
    if get_origin(kind) is dict:
        yield from _alternatives(get_args(kind)[1])
    elif isinstance(kind, type) and issubclass(kind, Section) and key in kind.model_fields:
        yield from _alternatives(kind.model_fields[key].annotation)


def _alternatives(annotation: Any) -> Iterator[Any]:
    if get_origin(annotation) in (Union, UnionType):
        for one in get_args(annotation):
            yield from _alternatives(one)
    elif get_origin(annotation) is Literal:
        yield from {type(value) for value in get_args(annotation)}
    else:
        yield annotation
