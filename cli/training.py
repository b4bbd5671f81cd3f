"""`flash train`: from a config to a run, and following it."""

import asyncio
import time
from argparse import Namespace
from pathlib import Path

import msgspec

from cli import contexts, metrics, output
from cli.runs import as_data, show_faults
from cli.session import stack
from cli.watching import detached, watch
from flash import client
from flash.artifacts import pack
from flash.bus import Bus
from flash.client import RunView
from flash.config.keys import RunConfig
from flash.config.resolving import WarmStart, new_run_id, preview, require_environment, resolve
from flash.config.run import load
from flash.config.secrets import find
from flash.contracts.access import org_of
from flash.contracts.requests import EnvironmentVersion
from flash.contracts.spec import RunSpec
from flash.errors import FlashError

FAILED = 1


async def train(options: Namespace) -> int | None:
    config = load(options.config, options.overlays, options.sets, say=output.note)
    run_id = new_run_id(time.time())
    if options.dry_run:
        org = org_of(contexts.token(options))
        output.data({"run_id": run_id, "state": "dry_run", "spec": preview(config, run_id=run_id, org=org)})
        return None
    reference = require_environment(config)
    secrets = find(config.environment.secrets, options.config)
    given = secrets.required()
    async with stack(options) as bus:
        environment = await client.pin(bus, reference, say=output.note)
        environment = await client.with_params(
            bus, environment, config.environment.params, config.environment.pip, given, say=output.note
        )
        warm_start = await _warm_start(bus, config)
        spec = resolve(config, environment, run_id=run_id, org=bus.org, warm_start=warm_start)
        if changed := await asyncio.to_thread(_changes, options.config, environment):
            output.note(changed)
        for line in plan(spec, environment):
            output.note(line)
        for name in secrets.too_short:
            output.note(f"note: the secret {name} is too short to be masked where the environment tells it")
        sealed = await client.sealed_for_run(bus, spec, given, say=output.note)
        state = await client.submit(bus, spec, sealed, say=output.note)
        if options.background:
            output.data(msgspec.to_builtins(state)) if output.wants_json(options) else output.line(run_id)
            return None
        try:
            seen = await watch(bus, run_id)
        except asyncio.CancelledError:
            output.note(detached(run_id))
            raise
    if output.wants_json(options):
        output.data(as_data(seen))
    _sum_up(seen)
    return None if seen.state == "done" else FAILED


def plan(spec: RunSpec, environment: EnvironmentVersion) -> list[str]:
    """What will run, line by line."""
    train = spec.train
    assert train is not None, "an evaluation trains nothing"
    rows = environment.rows.get(spec.split)
    per_step = f"{train.batch_size} {'prompts' if spec.sampling else 'sequences'}"
    if rows is not None and rows < train.batch_size:
        per_step = f"{rows} (all rows of the split; batch_size is {train.batch_size})"
    if spec.sampling:
        per_step += f" × {spec.sampling.group_size} rollouts of at most {spec.sampling.max_tokens} tokens"
        length = f"{train.steps} steps"
    else:
        length = f"epochs {train.epochs}" + (f", at most {train.max_steps} steps" if train.max_steps else "")
        length += f", at most {train.max_examples} rows" if train.max_examples else ""
    lines = {
        "run": spec.run_id,
        "model": spec.model + (f", from {spec.reference}" if train.init_from_adapter else ""),
        "algorithm": f"{spec.algorithm}, {length}",
        "environment": f"{spec.environment.id}@{spec.environment.version}",
        "rows": f"{spec.split}, {rows if rows is not None else 'to be counted'}",
        **({"pip": ", ".join(spec.environment.pip)} if spec.environment.pip else {}),
        **({"network": ", ".join(spec.environment.network)} if spec.environment.network else {}),
        **({"secrets": ", ".join(spec.environment.secrets)} if spec.environment.secrets else {}),
        "each step": per_step,
        "adapter": f"rank {train.lora_rank}, alpha {train.lora_alpha}, learning rate {train.learning_rate:g}",
    }
    return [f"{name:<12}{value}" for name, value in lines.items()]


async def _warm_start(bus: Bus, config: RunConfig) -> WarmStart | None:
    if config.train.init_from_adapter is None:
        return None
    start = await client.resolve_reference(bus, config.train.init_from_adapter)
    if start.note:
        output.note(start.note)
    return WarmStart(
        reference=start.text,
        policy=start.policy,
        model=start.model,
        lora_rank=start.lora_rank,
        lora_alpha=start.lora_alpha,
    )


def _changes(config: Path, environment: EnvironmentVersion) -> str:
    """A word of warning if the folder that the config lies in is not what was published."""
    folder = next((f for f in config.resolve().parents if (f / "environment.py").is_file()), None)
    if folder is None:
        return ""
    try:
        if pack(folder).digest == environment.digest:
            return ""
    except FlashError as error:
        return f"note: {folder} cannot be packed any more: {error}"
    name = environment.id.rpartition("/")[2]
    return (
        f"note: {folder} differs from {environment.id}@{environment.version}, which the run uses; "
        f"`flash env push --name {name} {folder}` publishes it"
    )


def _sum_up(seen: RunView) -> None:
    """The last words, for a person."""
    output.note(f"\n{seen.run_id} is {seen.state} after {seen.step} steps and {output.ago(_took(seen))}")
    if seen.reason:
        output.note(seen.reason)
    if seen.metrics:
        output.note(metrics.row(seen.spec.get("algorithm", ""), seen.step, seen.metrics))
    if len(seen.rewards) > 1:
        output.note(f"reward {metrics.curve(seen.rewards)} {seen.rewards[0]:.3f} → {seen.rewards[-1]:.3f}")
    if seen.faults:
        output.note(f"{seen.faults} of {seen.rollouts} rollouts were faults")
    show_faults(seen)
    if seen.checkpoint:
        output.note(f"checkpoint {seen.checkpoint}\ntalk to it: flash chat {seen.checkpoint}")


def _took(seen: RunView) -> float:
    return (seen.ended_at or time.time()) - seen.submitted_at
