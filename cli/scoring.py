"""`flash env score`: one call of an author's scorer, through the host that a run uses."""

import time
from argparse import Namespace
from collections.abc import Sequence
from typing import Any

import msgspec

from cli import authoring, metrics, output
from cli.episodes import Said, play
from envsdk.examples import task_example_from_record
from flash.contracts.values import Example, Message, Verdict
from flash.errors import ConfigError
from flash.host import Host, LoadFailed

FAILED = 1
MOST_TURNS = 20
"""Of an episode; the environment's own limit comes first."""


async def score(options: Namespace) -> int | None:
    if not options.texts:
        raise ConfigError("--text is missing: give the reply that is to be scored, once or several times")
    setup = authoring.setup(options.environment, options)
    setup.secrets.required()
    example = example_of(options.input, options.output, options.metadata)
    failed = False
    async with authoring.package(options.environment, options) as package:
        began = time.perf_counter()
        try:
            async with authoring.host(package, setup, options.home) as host:
                began = time.perf_counter()
                verdicts = await verdicts_of(
                    host, example, options.texts, deadline_s=options.deadline, thinking=setup.thinking
                )
        except LoadFailed as error:
            output.note(f"error: {authoring.told(error)}")
            verdicts, failed = [Verdict(fault=error.fault)] * len(options.texts), True
        took_s = time.perf_counter() - began
    if output.wants_json(options):
        output.data({"rollouts": [as_data(verdict, took_s) for verdict in verdicts]})
    else:
        for line in lines(verdicts, took_s):
            output.line(line)
    return FAILED if failed else None


async def verdicts_of(
    host: Host, example: Example, texts: Sequence[str], *, deadline_s: float, thinking: bool
) -> list[Verdict]:
    """In several turns, each text makes an episode in which the policy says it every time."""
    if not host.about.multi_turn:
        return await host.score(example, texts, deadline_s=deadline_s, thinking=thinking)

    async def say(index: int, messages: list[Message]) -> Said:
        return Said(texts[index])

    episodes = await play(
        host, msgspec.structs.replace(example, max_turns=MOST_TURNS), len(texts), say,
        prompt_text=host.about.prompt_text, deadline_s=deadline_s, thinking=thinking,
    )  # fmt: skip
    return [episode.verdict for episode in episodes]


def example_of(text: str, gold: str | None, metadata: str | None = None) -> Example:
    """A row that has never been in a dataset. `metadata` is a JSON object. Raises ConfigError where it is none."""
    record: dict[str, Any] = {"input": text}
    if gold is not None:
        record["output"] = gold
    if metadata is not None:
        record["metadata"] = _object(metadata)
    row = task_example_from_record(record)
    return Example(index=0, id=row.id or "", input=row.input, output=row.output, metadata=row.metadata, record=record)


def _object(text: str) -> dict[str, Any]:
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise ConfigError(
            f"--metadata is {text!r}, but a JSON object is wanted, for example '{{\"level\": 3}}': {error}"
        ) from error


def as_data(verdict: Verdict, took_s: float) -> dict[str, Any]:
    """What programs read of a rollout. One that did not end took as long as all of them."""
    fault = verdict.fault
    return {
        "reward": verdict.reward,
        "success": verdict.success,
        "metrics": [msgspec.to_builtins(metric) for metric in verdict.metrics],
        "fault": msgspec.to_builtins(fault) if fault else None,
        "output": verdict.output,
        "took_s": round(verdict.took_s or took_s, 6),
    }


def lines(verdicts: Sequence[Verdict], took_s: float) -> list[str]:
    """What a person reads."""
    found: list[str] = []
    for number, verdict in enumerate(verdicts, start=1):
        head = f"#{number}  " if len(verdicts) > 1 else ""
        took = f"{(verdict.took_s or took_s) * 1e3:.1f} ms"
        if fault := verdict.fault:
            found.append(f"{head}fault {fault.kind}: {fault.message}  ({took})")
            found += _indented(fault.traceback)
        else:
            success = {True: "success", False: "no success", None: "success unknown"}[verdict.success]
            found.append(f"{head}reward {metrics.number(verdict.reward)}  {success}  ({took})")
        for metric in verdict.metrics:
            value = metric.score if metric.score is not None else metric.value
            reason = f": {metric.reason}" if metric.reason else ""
            found.append(f"    {metric.name} {metrics.number(value)}{reason}")
        if verdict.error:
            found.append(f"    error: {verdict.error}")
        if verdict.output:
            found += ["    printed:", *_indented(verdict.output)]
    return found


def _indented(text: str) -> list[str]:
    return [f"      {line}" for line in text.rstrip().splitlines()]
