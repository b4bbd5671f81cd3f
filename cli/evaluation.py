"""`flash env eval`: how good a model or a checkpoint is at an environment."""

import asyncio
import time
from argparse import Namespace

from cli import metrics, output
from cli.runs import show_faults
from cli.session import stack
from cli.watching import Counter, detached
from flash import client
from flash.bus import Bus
from flash.client import Reference, RunView
from flash.client.asking import ORG
from flash.client.view import after
from flash.config.run import new_run_id, pinned, prompt_text
from flash.contracts.requests import EnvironmentVersion
from flash.contracts.spec import RunSpec, SamplingSpec
from flash.errors import ConfigError
from flash.models import card

FAILED = 1
NOUNS = ("run", "dataset", "group")


async def evaluate(options: Namespace) -> int | None:
    _check(options)
    async with stack(options) as bus:
        output.note(f"Loading environment: {options.environment}")
        named = options.environment if "/" in options.environment else f"{ORG}/{options.environment}"
        environment = await client.pin(bus, named, say=output.note)
        reference = await client.resolve_reference(bus, options.model)
        if reference.note:
            output.note(reference.note)
        spec = evaluation(environment, reference, options, run_id=new_run_id(time.time()))
        output.note(f"{environment.id}@{environment.version}, split {spec.split}, {spec.reference}, run {spec.run_id}")
        await client.submit(bus, spec, say=output.note)
        try:
            seen = await _watched(bus, spec)
        except asyncio.CancelledError:
            output.note(detached(spec.run_id))
            raise
    return _tell(seen, spec, options)


def evaluation(environment: EnvironmentVersion, reference: Reference, options: Namespace, *, run_id: str) -> RunSpec:
    """The run that plays the rows and trains nothing."""
    recipe = card(reference.model).grpo
    max_tokens = options.max_tokens or (1_536 if reference.thinking else int(recipe.get("max_tokens", 320)))
    return RunSpec(
        org=ORG,
        run_id=run_id,
        algorithm="eval",
        model=reference.model,
        pool=reference.pool,
        seed=options.seed,
        environment=pinned(environment, {}),
        split=options.split or ("eval" if "eval" in environment.rows else "train"),
        prompt_text=prompt_text(environment, {}),
        thinking=reference.thinking,
        sampling=SamplingSpec(group_size=options.rollouts, temperature=options.temperature, max_tokens=max_tokens),
        policy=reference.policy,
        reference=reference.text,
        max_examples=options.examples,
    )


async def _watched(bus: Bus, spec: RunSpec) -> RunView:
    assert spec.sampling is not None, "an evaluation samples"
    per_example = spec.sampling.group_size
    seen = RunView(spec.run_id)
    with Counter("Progress:", lambda done, total: f"{done}/{total} ({done / total:.0%})") as counter:
        async for event in client.follow(bus, spec.run_id, nouns=NOUNS, say=output.note):
            seen = after(seen, event)
            if event.event.startswith("run.planned."):
                output.note(
                    f"Running {seen.rows} examples × {per_example} rollouts = {seen.rows * per_example} total rollouts"
                )
            if event.event.startswith("group.scored."):
                counter.show(seen.step * per_example, seen.rows * per_example)
    return seen


def _tell(seen: RunView, spec: RunSpec, options: Namespace) -> int | None:
    if output.wants_json(options):
        output.data(
            {
                "run_id": seen.run_id,
                "state": seen.state,
                "environment": spec.environment.id,
                "version": spec.environment.version,
                "split": spec.split,
                "reference": spec.reference,
                "examples": seen.rows,
                "reason": seen.reason,
                **(seen.metrics if seen.state == "done" else {}),
            }
        )
    say = output.note if output.wants_json(options) else output.line
    if seen.state == "done":
        say("Results:")
        for line in metrics.evaluation(seen.metrics):
            say(line)
    else:
        output.note(f"{seen.run_id} is {seen.state}: {seen.reason}")
    show_faults(seen)
    return None if seen.state == "done" else FAILED


def _check(options: Namespace) -> None:
    for name, value, least in (
        ("-n", options.examples, 0),
        ("-r", options.rollouts, 1),
        ("--temperature", options.temperature, 0),
        ("--max-tokens", options.max_tokens, 1),
    ):
        if value is not None and not value >= least:
            raise ConfigError(f"{name} is {value}, but {least} or more is wanted")
