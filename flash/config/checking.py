"""What the keys of a config must be to one another, and to the model. Pure: a config in, sentences out."""

import ipaddress
import math
import re
from collections.abc import Iterable, Iterator

from flash import credentials
from flash.config import references, secrets
from flash.config.keys import DESTINATION, SPLIT, Environment, GrpoTrain, RunConfig
from flash.config.overlay import is_whole
from flash.config.requirements import normal_form
from flash.config.sentences import named, shown
from flash.contracts.environments import ENVIRONMENT_ID
from flash.errors import ConfigError
from flash.models import ModelCard

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_WANDB_PROJECT = re.compile(r"[^/\\#?%:\x00-\x1f]{1,128}")


def complaints(config: RunConfig, model_card: ModelCard) -> Iterator[str]:
    """One sentence for each thing that is wrong between keys, or that no single type can say."""
    yield from _unservable(config, model_card)
    yield from _unresolvable(config.environment)
    yield from not_carried(("environment", "params"), config.environment.params)
    yield from _no_labels(config.worker_env)
    for name in config.environment.secrets:
        if name in config.worker_env:
            yield f"worker_env.{name} is also a name under environment.secrets: remove one of them"
    if config.wandb and not _WANDB_PROJECT.fullmatch(config.wandb.project):
        yield (
            f"wandb.project is {shown(config.wandb.project)}, but a name of 1 to 128 characters is wanted, none of "
            "them one of / \\ # ? % :"
        )


def warnings(config: RunConfig) -> Iterator[str]:
    """What may be right, and is more likely a slip."""
    for path, text in _texts(("environment", "params"), config.environment.params):
        kind = credentials.in_value(text) or ("a credential, by its name" if credentials.is_name(path[-1]) else None)
        if kind and text:
            yield (
                f"warning: {named(*path)} looks like {kind}, and params are part of the run's spec for everybody to "
                "read: pass it as a name under environment.secrets"
            )


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
    if not SPLIT.fullmatch(train.eval_split):
        yield (f'train.eval_split is {shown(train.eval_split)}, but the name of a split is wanted, for example "eval"')
    if train.max_length > model_card.context:
        yield f"train.max_length is {train.max_length}, but {config.model} reads at most {model_card.context} tokens"
    if isinstance(train, GrpoTrain) and train.max_tokens >= train.max_length:
        yield (
            f"train.max_tokens is {train.max_tokens}, but a sequence has at most train.max_length = "
            f"{train.max_length} tokens, the prompt included: leave room for it"
        )


def _unresolvable(environment: Environment) -> Iterable[str]:
    if environment.id and not ENVIRONMENT_ID.fullmatch(environment.id):
        yield f"environment.id is {shown(environment.id)}, but an id is org/name or org/name@version: " + (
            "`flash env push --name NAME .` publishes the folder and prints it"
        )
    split = environment.params.get("split", "train")
    if not isinstance(split, str) or not SPLIT.fullmatch(split):
        yield f'environment.params.split is {shown(split)}, but the name of a split is wanted, for example "train"'
    try:
        normal_form(environment.pip)
    except ConfigError as error:
        yield str(error)
    for place in environment.network:
        if not _is_destination(place):
            yield (
                f"environment.network has {shown(place)}, but host or host:port is wanted, for example "
                '"api.openai.com" or "127.0.0.1:8000"'
            )
    yield from secrets.complaints(environment.secrets)
    for key in ("contract_text", "contract_path"):
        if not isinstance(text := environment.params.get(key, ""), str):
            yield f"environment.params.{key} is {shown(text)}, but a text is wanted"


def _is_destination(place: str) -> bool:
    found = DESTINATION.fullmatch(place)
    if found is None or (found["address"] and not _is_address(found["address"])):
        return False
    return found["port"] is None or 0 < int(found["port"]) < 65_536


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def not_carried(path: tuple[str, ...], value: object) -> Iterator[str]:
    """Params travel as JSON: what that has no form for would arrive as something else."""
    match value:
        case dict():
            for key, inner in value.items():
                yield from not_carried((*path, key), inner)
        case list():
            for index, inner in enumerate(value):
                yield from not_carried((*path, str(index)), inner)
        case bool():
            pass
        case int() if not -(2**63) <= value < 2**63:
            yield f"{named(*path)} is {shown(value)}, but a number of at most 64 bits is wanted: write it as a text"
        case float() if not math.isfinite(value):
            yield f"{named(*path)} is {value}, but a finite number is wanted"
        case str() if not is_whole(value):
            yield f"{named(*path)} is {shown(value)}, but a text of whole characters is wanted"
        case int() | float() | str():
            pass
        case _:
            yield f"{named(*path)} is {value}, but a param is a text, a number, true, false, a list or a table"


def _no_labels(variables: dict[str, str]) -> Iterator[str]:
    """What in `[worker_env]` is no name, no text for a variable, or a secret."""
    for name, value in variables.items():
        key = named("worker_env", name)
        if not _VARIABLE.fullmatch(name):
            yield f"{key} names no environment variable: letters, digits and underscores are wanted"
        elif secrets.is_managed(name):
            yield f"{key} is set by the platform: choose another name"
        elif credentials.is_name(name):
            yield f"{key} looks like a secret, by its name, and worker_env is part of the run's spec: " + (
                f'write secrets = ["{name}"] under [environment] instead'
            )
        elif kind := credentials.in_value(value):
            yield f"{key} holds {kind}, and worker_env is part of the run's spec: " + (
                f'write secrets = ["{name}"] under [environment] instead'
            )
        elif "\0" in value:
            yield f"{key} is {shown(value)}, but an environment variable cannot hold a NUL"


def _texts(path: tuple[str, ...], value: object) -> Iterator[tuple[tuple[str, ...], str]]:
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _texts((*path, key), inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(path, inner)
