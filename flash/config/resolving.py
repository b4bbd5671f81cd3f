"""From a checked config to what the services work from: the run's spec, with nothing left to look up."""

import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import msgspec

from flash.config.keys import GrpoTrain, RunConfig
from flash.config.requirements import normal_form
from flash.contracts.keys import run_prefix
from flash.contracts.requests import EnvironmentVersion
from flash.contracts.spec import EnvironmentSpec, PlatformSpec, RunSpec, SamplingSpec, TrainSpec, WandbSpec
from flash.contracts.values import PolicyRef
from flash.errors import ConfigError
from flash.models import pool_of


@dataclass(frozen=True)
class WarmStart:
    """The checkpoint that a run starts from."""

    reference: str
    """`RUN/step-N`."""
    policy: PolicyRef
    model: str
    lora_rank: int
    lora_alpha: int


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
        eval_every=train.eval_every,
        eval_split=train.eval_split,
        eval_sampling=_eval_sampling(config) if train.eval_every else None,
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
            thinking_length_penalty_coef=train.thinking_length_penalty_coef,
            max_lag=train.max_lag,
            loss=train.loss,
            importance_correction=train.importance_correction,
            credit=train.credit,
        )
    else:
        spec = msgspec.structs.replace(
            spec, epochs=train.epochs, max_steps=train.max_steps, max_examples=train.max_examples
        )
    params, pool = config.environment.params, pool_of(config.model)
    return RunSpec(
        org=org,
        run_id=run_id,
        algorithm=config.algorithm,
        model=config.model,
        pool=pool,
        seed=config.seed,
        environment=pinned(
            environment,
            params,
            config.environment.pip,
            config.environment.network,
            config.environment.secrets,
            config.worker_env,
        ),
        split=params.get("split", "train"),
        prompt_text=prompt_text(environment, params),
        thinking=config.thinking,
        sampling=sampling,
        train=spec,
        reference=warm_start.reference if warm_start else config.model,
        wandb=WandbSpec(**config.wandb.model_dump()) if config.wandb else None,
        platform=PlatformSpec(resources=pool, storage=run_prefix(run_id)),
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


def pinned(
    environment: EnvironmentVersion,
    params: Mapping[str, Any],
    pip: Iterable[str] = (),
    network: Iterable[str] = (),
    secrets: Iterable[str] = (),
    worker_env: Mapping[str, str] = MappingProxyType({}),
) -> EnvironmentSpec:
    """One version of an environment, and how this run loads it. Raises ConfigError for what is no requirement."""
    return EnvironmentSpec(
        id=environment.id,
        version=environment.version,
        digest=environment.digest,
        key=environment.key,
        params=dict(params),
        pip=normal_form(pip),
        network=sorted(set(network)),
        worker_env=dict(worker_env),
        secrets=sorted(set(secrets)),
    )


def prompt_text(environment: EnvironmentVersion, params: Mapping[str, Any]) -> str:
    """The run's system text: the param `contract_text`, else what the package says."""
    return str(params.get("contract_text") or environment.prompt_text)


def new_run_id(epoch_s: float, draw: Callable[[int], str] = secrets.token_hex) -> str:
    """`flash-<epoch>-<8 hex>`, made by whoever submits, so that submitting twice is one run."""
    return f"flash-{int(epoch_s)}-{draw(4)}"


def _eval_sampling(config: RunConfig) -> SamplingSpec:
    """One answer to each row, drawn as in training; after SFT, which draws none, as GRPO would by default."""
    train = config.train
    if not isinstance(train, GrpoTrain):
        most = min(1_536 if config.thinking else 320, train.max_length // 2)
        return SamplingSpec(group_size=1, temperature=1.0, max_tokens=most)
    return SamplingSpec(
        group_size=1, temperature=train.temperature, max_tokens=train.max_tokens, stop_sequences=train.stop_sequences
    )


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
