"""`flash train`: from a config to a run, and following it."""

import asyncio
import time
from argparse import Namespace
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import msgspec

from cli import contexts, metrics, output, planned
from cli.runs import as_data, show_faults
from cli.session import require_pool, stack
from cli.speeds import remember
from cli.watching import Counter, detached, watch, ways_back
from flash import client
from flash.artifacts import pack
from flash.bus import Bus
from flash.client import RunView, Survey
from flash.client.speed import speed_of
from flash.config.differences import differences
from flash.config.keys import RunConfig
from flash.config.resolving import WarmStart, new_run_id, preview, require_environment, resolve
from flash.config.run import load
from flash.config.secrets import find
from flash.contracts.access import org_of
from flash.contracts.requests import EnvironmentVersion, RecorderKey
from flash.contracts.spec import RunSpec
from flash.errors import BusError, FlashError

FAILED = 1


async def train(options: Namespace) -> int | None:
    config = load(options.config, options.overlays, options.sets, say=output.note)
    if options.cost:
        from cli.costing import cost

        await cost(config, options)
        return None
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
            bus,
            environment,
            config.environment.params,
            config.environment.pip,
            config.worker_env,
            given,
            say=output.note,
        )
        warm_start = await _warm_start(bus, config)
        spec = resolve(config, environment, run_id=run_id, org=bus.org, warm_start=warm_start)
        await require_pool(bus, spec, options)
        if changed := await asyncio.to_thread(_changes, options.config, environment):
            output.note(changed)
        for name in secrets.too_short:
            output.note(f"note: the secret {name} is too short to be masked where the environment tells it")
        sealed = await client.sealed_for_run(bus, spec, given, say=output.note)
        if spec.wandb:
            sealed |= await _board_key(bus, spec, options.config)
        found = await _surveyed(bus, spec, sealed)
        for line in planned.lines(spec, found, differences(config)):
            output.note(line)
        state = await client.submit(bus, spec, sealed, say=output.note)
        if options.background:
            output.data(msgspec.to_builtins(state)) if output.wants_json(options) else output.line(run_id)
            output.note(f"{run_id} is submitted\n{ways_back(run_id)}")
            return None
        try:
            seen = await watch(bus, run_id)
        except asyncio.CancelledError:
            output.note(detached(run_id))
            raise
        await _remember_speed(bus, seen, options)
    if output.wants_json(options):
        output.data(as_data(seen))
    _sum_up(seen)
    return None if seen.state == "done" else FAILED


async def _surveyed(bus: Bus, spec: RunSpec, sealed: Mapping[str, bytes]) -> Survey:
    """The run's rows, all right and counted. Raises a FlashError with the sentence on what is wrong with them."""
    with Counter("looked at", lambda done, total: f"{done:,} of {total:,} rows") as counter:
        return await client.survey(bus, spec, sealed.get("scorer", b""), say=output.note, progress=counter.show)


async def _board_key(bus: Bus, spec: RunSpec, config: Path) -> dict[str, bytes]:
    """The key of Weights & Biases, sealed to the recorders, which alone speak to it."""
    found = find(["WANDB_API_KEY"], config)
    if found.missing:
        output.note(
            "note: the config has [wandb], but WANDB_API_KEY is set neither in your shell nor in .env or .env.local: "
            "the run is not shown on Weights & Biases"
        )
    return await client.sealed_for_run(bus, spec, found.values, RecorderKey, say=output.note)


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


async def _remember_speed(bus: Bus, seen: RunView, options: Namespace) -> None:
    """What the next `--cost` reckons with."""
    with suppress(BusError):  # the run is over, whoever is away now
        if speed := await speed_of(bus, seen.run_id):
            remember(options.home, seen.spec["model"], seen.spec["algorithm"], speed)


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
        output.note(f"checkpoint {seen.checkpoint}")
    for line in _next_steps(seen):
        output.note(line)


def _next_steps(seen: RunView) -> list[str]:
    """What people do with a run that is over."""
    if seen.state != "done":
        return [f"what was said about it: flash log {seen.run_id}"]
    if seen.spec.get("algorithm") == "sft":
        then = f"go on from it:   flash train configs/rl.toml --set train.init_from_adapter={seen.run_id}"
    else:
        then = f"read rollouts:   flash rollouts {seen.run_id} --sort reward"
    return [
        f"talk to it:      flash chat {seen.run_id}",
        then,
        f"its saved steps: flash checkpoints {seen.run_id}",
        f"take it along:   flash export {seen.run_id} DIR",
    ]


def _took(seen: RunView) -> float:
    return (seen.ended_at or time.time()) - seen.submitted_at
