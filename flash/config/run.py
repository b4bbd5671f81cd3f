"""Reading a run config: from TOML files and `--set` to checked values, nothing left out.

A knob's value is the person's, else the model card's, else the default beside its field in `keys`.
"""

import tomllib
from collections.abc import Callable, Iterable
from pathlib import Path

from pydantic import ValidationError

from flash.config import checking
from flash.config.keys import ALGORITHMS, RunConfig, SftTrain, is_text
from flash.config.overlay import DEFAULT_ALGORITHM, Table, compose, settings
from flash.config.sentences import sentence, shown
from flash.errors import ConfigError, NotFound
from flash.models import ModelCard, card, nearest


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
    values, notes = compose([read(path), *map(read, overlays), settings(sets, is_text)], knobs)
    for note in notes:
        say(note)
    config = checked(values)
    for warning in checking.warnings(config):
        say(warning)
    return config


def read(path: Path) -> Table:
    """One TOML file, as it is written."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(
            f"there is no config {path}: `flash env setup` writes configs/sft.toml and configs/rl.toml"
        ) from error
    except (IsADirectoryError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is no TOML file: {error}") from error
    except PermissionError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # a broken TOML, a number of 5,000 digits, 1,000 brackets
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
            {**values, "model": model_card.name, "thinking": thinking, "train": train or SftTrain.model_validate({})}
        )
    except ValidationError as error:
        complaints += [sentence(detail, (), algorithm) for detail in error.errors()]
    if complaints:
        raise ConfigError("\n".join(complaints))
    if complaints := [*checking.complaints(config, model_card)]:
        raise ConfigError("\n".join(complaints))
    return config


def _card(values: Table) -> ModelCard:
    model, policy = values.get("model"), values.get("model_policy", "catalogue")
    if model is None:
        raise ConfigError('model is missing: name the base model to train, for example model = "smollm2-135m"')
    if not isinstance(model, str):
        raise ConfigError(f"model is {shown(model)}, but the name of a base model is wanted")
    if policy not in ("catalogue", "allow"):
        raise ConfigError(f"model_policy is {shown(policy)}, but it is one of 'catalogue' or 'allow'")
    try:
        found = card(model)
    except NotFound as error:
        raise ConfigError(f"model is {shown(model)}, but {error}") from error
    if policy == "catalogue" and not found.is_listed:
        near = nearest(model)
        meant = f"did you mean {shown(near)}?" if near else "`flash models` lists them;"
        raise ConfigError(
            f"model is {shown(model)}, which the catalogue does not have: {meant} "
            'model_policy = "allow" takes any causal model'
        )
    return found


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
