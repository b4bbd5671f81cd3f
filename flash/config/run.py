"""The run config: the TOML that a person writes, checked, completed, and resolved into what the services work from.

A knob's value is the person's, else the model card's, else the default beside the field below.
"""

import difflib
import json
import math
import re
import secrets
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from flash.config import references
from flash.config.overlay import DEFAULT_ALGORITHM, Table, compose, settings
from flash.contracts.requests import EnvironmentVersion
from flash.contracts.spec import EnvironmentSpec, RunSpec, SamplingSpec, TrainSpec
from flash.contracts.values import PolicyRef
from flash.errors import ConfigError, NotFound
from flash.models import ModelCard, card

SPLIT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
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


@dataclass(frozen=True)
class WarmStart:
    """The checkpoint that a run starts from."""

    reference: str
    """`RUN/step-N`."""
    policy: PolicyRef
    model: str
    lora_rank: int
    lora_alpha: int


def load(
    path: Path,
    overlays: Iterable[Path] = (),
    sets: Iterable[str] = (),
    say: Callable[[str], object] = lambda note: None,
) -> RunConfig:
    """The config that a file, each `--config` and each `--set` make together. `say` hears what was dropped.

    Raises ConfigError with one sentence for each thing that is wrong.
    """
    knobs = {algorithm: train.model_fields for algorithm, train in ALGORITHMS.items()}
    values, notes = compose([read(path), *map(read, overlays), settings(sets)], knobs)
    for note in notes:
        say(note)
    return checked(values)


def read(path: Path) -> Table:
    """One TOML file, as it is written."""
    try:
        return tomllib.loads(path.read_text())
    except FileNotFoundError as error:
        raise ConfigError(
            f"there is no config {path}: `flash env setup` writes configs/sft.toml and configs/rl.toml"
        ) from error
    except (IsADirectoryError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is no TOML file: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is no TOML: {error}") from error


def checked(values: Table) -> RunConfig:
    """The config in a composed table. Raises ConfigError with one sentence for each thing that is wrong."""
    model_card = _card(values)
    algorithm = values.get("algorithm", DEFAULT_ALGORITHM)
    if not isinstance(algorithm, str) or algorithm not in ALGORITHMS:
        raise ConfigError(f"algorithm is {_shown(algorithm)}, but it is one of {', '.join(ALGORITHMS)}")
    written = values.get("train", {})
    if not isinstance(written, dict):
        raise ConfigError(f"train is {_shown(written)}, but it is a table: [train]")
    thinking = values.get("thinking", model_card.thinking == "always")
    complaints: list[str] = []
    train = None
    try:
        train = ALGORITHMS[algorithm].model_validate(
            {**_defaults(algorithm, written, thinking is True, model_card), **written}
        )
    except ValidationError as error:
        complaints += [_sentence(detail, ("train",), algorithm) for detail in error.errors()]
    try:
        config = RunConfig.model_validate(
            {**values, "thinking": thinking, "train": train or SftTrain.model_validate({})}
        )
    except ValidationError as error:
        complaints += [_sentence(detail, (), algorithm) for detail in error.errors()]
    if complaints:
        raise ConfigError("\n".join(complaints))
    if complaints := [*_unservable(config, model_card), *_unresolvable(config.environment)]:
        raise ConfigError("\n".join(complaints))
    return config


def require_environment(config: RunConfig) -> str:
    """The id of the environment. Raises ConfigError, telling to push, where there is none yet."""
    if not config.environment.id:
        raise ConfigError(
            "environment.id is empty: publish the folder with `flash env push --name NAME .` and write the id it "
            "prints under [environment]"
        )
    return config.environment.id


def resolve(
    config: RunConfig,
    environment: EnvironmentVersion,
    *,
    run_id: str,
    org: str = "local",
    warm_start: WarmStart | None = None,
) -> RunSpec:
    """What the services work from: nothing left to default, look up or ask.

    Raises ConfigError when the config and the adapter that it starts from do not fit together.
    """
    train = config.train
    rank, alpha = _lora(config, warm_start)
    spec = TrainSpec(
        lora_rank=rank,
        lora_alpha=alpha,
        learning_rate=train.learning_rate,
        batch_size=train.batch_size,
        max_length=train.max_length,
        save_every=train.save_every,
        init_from_adapter=warm_start.policy if warm_start else None,
        max_faults=train.max_faults,
    )
    sampling = None
    if isinstance(train, GrpoTrain):
        sampling = SamplingSpec(
            group_size=train.group_size,
            temperature=train.temperature,
            max_tokens=train.max_tokens,
            stop_sequences=train.stop_sequences,
        )
        spec = msgspec.structs.replace(
            spec,
            steps=train.steps,
            kl_penalty_coef=train.kl_penalty_coef,
            advantage_clip=train.advantage_clip,
            max_lag=train.max_lag,
            loss=train.loss,
            importance_correction=train.importance_correction,
        )
    else:
        spec = msgspec.structs.replace(
            spec, epochs=train.epochs, max_steps=train.max_steps, max_examples=train.max_examples
        )
    params = config.environment.params
    return RunSpec(
        org=org,
        run_id=run_id,
        algorithm=config.algorithm,
        model=config.model,
        pool=card(config.model).pool,
        seed=config.seed,
        environment=pinned(environment, params),
        split=params.get("split", "train"),
        prompt_text=prompt_text(environment, params),
        thinking=config.thinking,
        sampling=sampling,
        train=spec,
        reference=warm_start.reference if warm_start else config.model,
        name=config.name,
        tags=config.tags,
        note=config.note,
    )


def preview(config: RunConfig, *, run_id: str, org: str = "local") -> dict[str, Any]:
    """The spec as far as it can be told without asking anybody; what only the hub knows is null."""
    reference, _, version = require_environment(config).partition("@")
    unpublished = EnvironmentVersion(id=reference, version=version, digest="", key="", packed_bytes=0, published_at=0.0)
    spec: dict[str, Any] = msgspec.to_builtins(resolve(config, unpublished, run_id=run_id, org=org))
    spec["environment"] |= {"version": version or None, "digest": None, "key": None}
    if config.train.init_from_adapter:
        spec["reference"] = spec["train"]["init_from_adapter"] = config.train.init_from_adapter
        spec["train"] |= {"lora_rank": config.train.lora_rank, "lora_alpha": config.train.lora_alpha}
    return spec


def pinned(environment: EnvironmentVersion, params: Mapping[str, Any]) -> EnvironmentSpec:
    """One version of an environment, and how this run loads it."""
    return EnvironmentSpec(
        id=environment.id,
        version=environment.version,
        digest=environment.digest,
        key=environment.key,
        params=dict(params),
    )


def prompt_text(environment: EnvironmentVersion, params: Mapping[str, Any]) -> str:
    """The run's system text: the param `contract_text`, else what the package says."""
    return str(params.get("contract_text") or environment.prompt_text)


def new_run_id(epoch_s: float, draw: Callable[[int], str] = secrets.token_hex) -> str:
    """`flash-<epoch>-<8 hex>`, made by whoever submits, so that submitting twice is one run."""
    return f"flash-{int(epoch_s)}-{draw(4)}"


def _card(values: Table) -> ModelCard:
    model = values.get("model")
    if model is None:
        raise ConfigError('model is missing: name the base model to train, for example model = "smollm2-135m"')
    if not isinstance(model, str):
        raise ConfigError(f"model is {_shown(model)}, but the name of a base model is wanted")
    try:
        return card(model)
    except NotFound as error:
        raise ConfigError(f"model is {_shown(model)}, but {error}") from error


def _defaults(algorithm: str, written: Table, thinking: bool, model_card: ModelCard) -> Table:
    """What stands where the person wrote nothing and the field's own default would not suit."""
    values: Table = dict(model_card.grpo if algorithm == "grpo" else model_card.sft)
    max_length = 2_048 if thinking else 1_024
    if algorithm == "grpo":
        max_tokens = values.get("max_tokens", 1_536 if thinking else 320)
        values["max_tokens"] = min(max_tokens, model_card.context // 2)
        answer = written.get("max_tokens")
        max_length = 2_048 + (answer if isinstance(answer, int) and answer > 0 else values["max_tokens"])
    values.setdefault("max_length", min(max_length, model_card.context))
    if "init_from_adapter" in written:
        values |= {"lora_rank": None, "lora_alpha": None}
    return values


def _unservable(config: RunConfig, model_card: ModelCard) -> Iterable[str]:
    """What is wrong between the knobs and what the model can do."""
    train = config.train
    if config.thinking and model_card.thinking == "none":
        yield f"thinking is true, but {config.model} does not reason: set it to false"
    if not config.thinking and model_card.thinking == "always":
        yield f"thinking is false, but {config.model} always reasons: set it to true"
    if train.lora_rank is not None and train.lora_rank > model_card.max_lora_rank:
        yield f"train.lora_rank is {train.lora_rank}, which exceeds {config.model}'s serving " + (
            f"max_lora_rank={model_card.max_lora_rank}"
        )
    if train.init_from_adapter is not None and not references.checkpoint(train.init_from_adapter):
        yield (
            f"train.init_from_adapter is {_shown(train.init_from_adapter)}, but the checkpoint of a run is wanted: "
            f"{references.hint(train.init_from_adapter)}, as `flash checkpoints` prints it"
        )
    if train.max_length > model_card.context:
        yield f"train.max_length is {train.max_length}, but {config.model} reads at most {model_card.context} tokens"
    if isinstance(train, GrpoTrain) and train.max_tokens >= train.max_length:
        yield (
            f"train.max_tokens is {train.max_tokens}, but a sequence has at most train.max_length = "
            f"{train.max_length} tokens, the prompt included: leave room for it"
        )


def _unresolvable(environment: Environment) -> Iterable[str]:
    if environment.id and not ENVIRONMENT_ID.fullmatch(environment.id):
        yield (
            f"environment.id is {_shown(environment.id)}, but an id is org/name or org/name@version, as "
            "`flash env push` prints it"
        )
    split = environment.params.get("split", "train")
    if not isinstance(split, str) or not SPLIT.fullmatch(split):
        yield f'environment.params.split is {_shown(split)}, but the name of a split is wanted, for example "train"'
    for key in ("contract_text", "contract_path"):
        if not isinstance(text := environment.params.get(key, ""), str):
            yield f"environment.params.{key} is {_shown(text)}, but a text is wanted"


def _lora(config: RunConfig, warm_start: WarmStart | None) -> tuple[int, int]:
    """Rank and alpha: the config's, or those of the adapter that the run starts from."""
    train = config.train
    if warm_start is None:
        return train.lora_rank or 0, train.lora_alpha or 0
    if warm_start.model != config.model:
        raise ConfigError(
            f"train.init_from_adapter is {warm_start.reference}, an adapter of {warm_start.model}, but the run's model "
            f"is {config.model}: an adapter fits its own base model only"
        )
    for key, wanted, found in (
        ("lora_rank", train.lora_rank, warm_start.lora_rank),
        ("lora_alpha", train.lora_alpha, warm_start.lora_alpha),
    ):
        if wanted is not None and wanted != found:
            raise ConfigError(
                f"train.{key} is {wanted}, but {warm_start.reference}, which the run starts from, has {found}: "
                f"write {found} or leave it out"
            )
    return warm_start.lora_rank, warm_start.lora_alpha


# from pydantic's errors to sentences


def _sentence(error: ErrorDetails, table: tuple[str, ...], algorithm: str) -> str:
    loc = (*table, *error["loc"])
    key = ".".join(str(part) for part in loc)
    if error["type"] == "extra_forbidden":
        return _unknown(loc, algorithm)
    return f"{key} is {_shown(error['input'])}, but {_wanted(error)}"


def _wanted(error: ErrorDetails) -> str:
    limit = error.get("ctx", {})
    match error["type"]:
        case "int_type":
            found = error["input"]
            integral = isinstance(found, float) and found.is_integer()
            return f"a whole number is wanted: write {int(found)}" if integral else "a whole number is wanted"
        case "float_type" | "finite_number":
            return "a finite number is wanted"
        case "bool_type":
            return "true or false is wanted"
        case "string_type":
            return "a text is wanted"
        case "list_type":
            return "a list is wanted"
        case "dict_type" | "model_type":
            return f"it is a table: [{error['loc'][-1]}]"
        case "greater_than_equal" if error["loc"] == ("group_size",):
            return "GRPO compares the rollouts of a group: set it to 2 or more"
        case "greater_than_equal":
            return f"{limit['ge']} or more is wanted"
        case "greater_than":
            return f"a number above {limit['gt']:g} is wanted"
        case "less_than_equal":
            return f"{limit['le']:g} or less is wanted"
        case "less_than":
            return f"a number below {limit['lt']} is wanted"
        case "literal_error":
            return f"it is one of {limit['expected']}"
        case _:
            return error["msg"]


def _unknown(loc: tuple[Any, ...], algorithm: str) -> str:
    key, last = ".".join(str(part) for part in loc), str(loc[-1])
    if loc[0] == "train":
        for other, train in ALGORITHMS.items():
            if last in train.model_fields:
                return (
                    f'{key} is a knob of {other}, but algorithm is "{algorithm}": remove it, or set '
                    f'algorithm = "{other}"'
                )
        known = list(ALGORITHMS[algorithm].model_fields)
    else:
        known = list(Environment.model_fields if loc[0] == "environment" else RunConfig.model_fields)
    above = ".".join(str(part) for part in loc[:-1])
    if near := difflib.get_close_matches(last, known, n=1):
        return f"{key} is unknown: did you mean {above + '.' if above else ''}{near[0]}?"
    if len(loc) == 1 and any(last in train.model_fields for train in ALGORITHMS.values()):
        return f"{key} is unknown at the top: it belongs under [train]"
    return f"{key} is unknown; known {'there' if above else 'at the top'}: {', '.join(known)}"


def _shown(value: object) -> str:
    """A value as its author wrote it, cut to one line."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    try:
        text = json.dumps(value, ensure_ascii=False)
    except TypeError:
        text = str(value)
    return text if len(text) <= 80 else text[:77] + "..."
