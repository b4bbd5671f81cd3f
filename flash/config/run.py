"""Reading a run config: from TOML files and `--set` to checked values, nothing left out.

A knob's value is the person's, else the model card's, else the default beside its field in `keys`.
"""

import tomllib
from collections.abc import Callable, Iterable
from pathlib import Path

from pydantic import ValidationError

from flash.config import references
from flash.config.keys import (
    ALGORITHMS,
    DESTINATION,
    ENVIRONMENT_ID,
    SPLIT,
    Environment,
    GrpoTrain,
    RunConfig,
    SftTrain,
)
from flash.config.overlay import DEFAULT_ALGORITHM, Table, compose, settings
from flash.config.requirements import normal_form
from flash.config.sentences import sentence, shown
from flash.errors import ConfigError, NotFound
from flash.models import ModelCard, card


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
        raise ConfigError(f"algorithm is {shown(algorithm)}, but it is one of {', '.join(ALGORITHMS)}")
    written = values.get("train", {})
    if not isinstance(written, dict):
        raise ConfigError(f"train is {shown(written)}, but it is a table: [train]")
    thinking = values.get("thinking", model_card.thinking == "always")
    complaints: list[str] = []
    train = None
    try:
        train = ALGORITHMS[algorithm].model_validate(
            {**_defaults(algorithm, written, thinking is True, model_card), **written}
        )
    except ValidationError as error:
        complaints += [sentence(detail, ("train",), algorithm) for detail in error.errors()]
    try:
        config = RunConfig.model_validate(
            {**values, "thinking": thinking, "train": train or SftTrain.model_validate({})}
        )
    except ValidationError as error:
        complaints += [sentence(detail, (), algorithm) for detail in error.errors()]
    if complaints:
        raise ConfigError("\n".join(complaints))
    if complaints := [*_unservable(config, model_card), *_unresolvable(config.environment)]:
        raise ConfigError("\n".join(complaints))
    return config


def _card(values: Table) -> ModelCard:
    model = values.get("model")
    if model is None:
        raise ConfigError('model is missing: name the base model to train, for example model = "smollm2-135m"')
    if not isinstance(model, str):
        raise ConfigError(f"model is {shown(model)}, but the name of a base model is wanted")
    try:
        return card(model)
    except NotFound as error:
        raise ConfigError(f"model is {shown(model)}, but {error}") from error


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
    if isinstance(train, GrpoTrain) and train.thinking_length_penalty_coef and not config.thinking:
        yield (
            f"train.thinking_length_penalty_coef is {train.thinking_length_penalty_coef:g}, but thinking is false, so "
            "there are no thoughts to shorten: set thinking = true or leave it out"
        )
    if train.lora_rank is not None and train.lora_rank > model_card.max_lora_rank:
        yield f"train.lora_rank is {train.lora_rank}, which exceeds {config.model}'s serving " + (
            f"max_lora_rank={model_card.max_lora_rank}"
        )
    if train.init_from_adapter is not None and not references.checkpoint(train.init_from_adapter):
        yield (
            f"train.init_from_adapter is {shown(train.init_from_adapter)}, but the checkpoint of a run is wanted: "
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
            f"environment.id is {shown(environment.id)}, but an id is org/name or org/name@version, as "
            "`flash env push` prints it"
        )
    split = environment.params.get("split", "train")
    if not isinstance(split, str) or not SPLIT.fullmatch(split):
        yield f'environment.params.split is {shown(split)}, but the name of a split is wanted, for example "train"'
    try:
        normal_form(environment.pip)
    except ConfigError as error:
        yield str(error)
    for place in environment.network:
        if not DESTINATION.fullmatch(place):
            yield (
                f"environment.network has {shown(place)}, but host or host:port is wanted, for example "
                '"api.openai.com" or "127.0.0.1:8000"'
            )
    for key in ("contract_text", "contract_path"):
        if not isinstance(text := environment.params.get(key, ""), str):
            yield f"environment.params.{key} is {shown(text)}, but a text is wanted"
