"""What will run, line by line, before it is submitted. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any

from cli import output
from flash.client.surveying import Survey
from flash.contracts.plan import Plan
from flash.contracts.spec import RunSpec, TrainSpec
from flash.models.lengths import Lengths

DIGEST_CHARS = 12


def lines(spec: RunSpec, found: Survey, changed: Mapping[str, tuple[Any, Any]]) -> list[str]:
    """`changed`: the knobs that are not at their defaults, with those."""
    train = spec.train
    assert train is not None, "an evaluation trains nothing"
    environment = spec.environment
    told = {
        "run": spec.run_id,
        "model": spec.model + (f", from {spec.reference}" if train.init_from_adapter else ""),
        "algorithm": spec.algorithm,
        "environment": f"{environment.id}@{environment.version}, digest {environment.digest[:DIGEST_CHARS]}",
        **{key: ", ".join(value) for key, value in _declared(spec).items() if value},
        "rows": _rows(spec, found),
        "tokens": tokens(spec, found.lengths) if found.lengths else "not counted",
        "thoughts": thoughts(found.thoughtless),
        "steps": steps(spec, train, found.plan),
        "each step": each_step(spec, train, found.plan),
        "adapter": f"rank {train.lora_rank}, alpha {train.lora_alpha}, learning rate {train.learning_rate:g}",
        "wandb": f"project {spec.wandb.project}" if spec.wandb else "",
        "not default": ", ".join(f"{key} {_shown(value)} ({_shown(usual)})" for key, (value, usual) in changed.items()),
    }
    return [line for name, value in told.items() if value for line in output.field(name, value)]


def tokens(spec: RunSpec, lengths: Lengths) -> str:
    """`p50 23, p95 25, longest 31 of at most 256; 2 are cut, 1 is dropped`."""
    what = "of a row" if spec.algorithm == "sft" else "of a prompt"
    told = f"{what} p50 {lengths.p50:,}, p95 {lengths.p95:,}, longest {lengths.longest:,} of at most {lengths.limit:,}"
    left = [
        f"{count:,} {'is' if count == 1 else 'are'} {word}"
        for count, word in ((lengths.cut, _cut(spec)), (lengths.dropped, _dropped(spec)))
        if count
    ]
    return f"{told}; {', '.join(left)}" if left else f"{told}; none is cut"


def thoughts(thoughtless: Sequence[int]) -> str:
    """What SFT would teach against, where the run thinks; empty where every answer holds a thought."""
    if not thoughtless:
        return ""
    count = "1 output has" if len(thoughtless) == 1 else f"{len(thoughtless):,} outputs have"
    return f"{count} no <think> and </think>, the first in row {thoughtless[0]}: SFT teaches not to think there"


def steps(spec: RunSpec, train: TrainSpec, planned: Plan) -> str:
    if spec.algorithm == "grpo":
        return f"{planned.steps:,}"
    told = f"{planned.steps:,}, {train.epochs} epoch{'' if train.epochs == 1 else 's'} of {planned.rows:,} rows"
    return told + (f", at most {train.max_steps:,}" if train.max_steps else "")


def each_step(spec: RunSpec, train: TrainSpec, planned: Plan) -> str:
    told = f"{planned.prompts_per_step} {'prompts' if spec.sampling else 'sequences'}"
    if planned.prompts_per_step < train.batch_size:
        told += f" (all rows; batch_size is {train.batch_size})"
    if sampling := spec.sampling:
        told += f" × {sampling.group_size} rollouts of at most {sampling.max_tokens} tokens"
    return told


def _rows(spec: RunSpec, found: Survey) -> str:
    used = f", the first {found.plan.rows:,} are used" if found.plan.rows < found.rows else ""
    first = f" of the first {found.looked_at:,}" if found.looked_at < found.plan.rows else ""
    return f"{spec.split}, {found.rows:,}{used}, hash{first} {found.digest[:DIGEST_CHARS]}"


def _declared(spec: RunSpec) -> dict[str, list[str]]:
    environment = spec.environment
    worker_env = [f"{name}={value}" for name, value in environment.worker_env.items()]
    return {
        "pip": environment.pip,
        "network": environment.network,
        "worker_env": worker_env,
        "secrets": environment.secrets,
    }


def _cut(spec: RunSpec) -> str:
    return "cut" if spec.algorithm == "sft" else "left with less than max_tokens"


def _dropped(spec: RunSpec) -> str:
    return "dropped" if spec.algorithm == "sft" else "too long to be answered"


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
