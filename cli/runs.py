"""`flash runs`, `status`, `log`, `cancel`, `checkpoints`: looking at runs, and stopping one."""

import json
import sys
import time
from argparse import Namespace
from dataclasses import asdict

import msgspec

from cli import metrics, output
from cli.session import stack
from flash import client
from flash.client.following import told_so_far
from flash.client.view import RunView, after
from flash.contracts.requests import RecordedEvent
from flash.errors import NotFound

FAILED = 1


async def runs(options: Namespace) -> None:
    async with stack(options) as bus:
        states = await client.runs(bus)
    if output.wants_json(options):
        output.data([msgspec.to_builtins(state) for state in states])
        return
    now = time.time()
    output.table(
        ("RUN", "STATE", "ALGORITHM", "STEP", "MODEL", "ENVIRONMENT", "AGE", "NAME"),
        [
            (s.run_id, s.state, s.algorithm, f"{max(s.step, 0)}/{s.steps or '?'}", s.model, s.environment,
             output.ago(now - s.submitted_at), s.name)
            for s in states
        ],
    )  # fmt: skip


async def status(options: Namespace) -> int | None:
    async with stack(options) as bus:
        if not options.follow:
            seen = await client.view(bus, options.run_id)
            output.data(as_data(seen)) if output.wants_json(options) else show(seen)
            return None
        from cli.watching import watch

        seen = await watch(bus, options.run_id)
    output.data(as_data(seen)) if output.wants_json(options) else show(seen)
    return None if seen.state == "done" else FAILED


async def log(options: Namespace) -> None:
    async with stack(options) as bus:
        events = await told_so_far(bus, options.run_id)
        if not events:
            raise NotFound(f"there is no run {options.run_id}: `flash runs` lists them")
        for event in events:
            _print_event(event, options)
        if options.follow and not any(map(client.is_terminal, events)):
            async for event in client.follow(bus, options.run_id, after=events[-1].sequence, say=output.note):
                _print_event(event, options)


async def cancel(options: Namespace) -> None:
    async with stack(options) as bus:
        await client.cancel(bus, options.run_id)
        seen = RunView(options.run_id)
        async for event in client.follow(bus, options.run_id, say=output.note):
            seen = after(seen, event)
    if output.wants_json(options):
        output.data({"run_id": seen.run_id, "state": seen.state, "checkpoints": _references(seen)})
        return
    kept = f"; checkpoints: {', '.join(_references(seen))}" if seen.saves else ""
    output.line(f"{seen.run_id} is {seen.state}{kept}")


async def checkpoints(options: Namespace) -> None:
    async with stack(options) as bus:
        seen = await client.view(bus, options.run_id)
    if options.json:
        output.data(
            [{"step": s.step, "reference": f"{seen.run_id}/step-{s.step}", "final": s.final} for s in seen.saves]
        )
        return
    for save in seen.saves:
        output.line(f"step {save.step}  {seen.run_id}/step-{save.step}")
    if not seen.saves:
        output.note(f"{seen.run_id} is {seen.state} and has saved nothing yet")


def as_data(seen: RunView) -> dict[str, object]:
    """A run as programs read it."""
    return {**asdict(seen), "checkpoint": seen.checkpoint}


def show(seen: RunView) -> None:
    """A run as people read it."""
    spec = seen.spec
    until = seen.ended_at or time.time()
    lines = [
        ("run", seen.run_id + (f"  ({spec['name']})" if spec.get("name") else "")),
        ("state", seen.state + (f", waiting for {seen.waiting_for}" if seen.waiting_for else "")),
        ("reason", seen.reason),
        ("algorithm", spec.get("algorithm", "")),
        ("model", spec.get("model", "") + _from(spec)),
        ("environment", "{id}@{version}".format(**spec["environment"]) if spec else ""),
        ("step", f"{seen.step}/{_total(seen)}"),
        ("metrics", metrics.row(spec.get("algorithm", ""), seen.step, seen.metrics) if seen.metrics else ""),
        ("reward", metrics.curve(seen.rewards)),
        ("faults", f"{seen.faults} of {seen.rollouts} rollouts" if seen.rollouts else ""),
        ("took", output.ago(until - seen.submitted_at)),
        ("checkpoint", seen.checkpoint),
    ]
    for name, value in lines:
        if value:
            output.line(f"{name:<12}{value}")
    if spec.get("algorithm") == "eval" and seen.state == "done":
        for text in metrics.evaluation(seen.metrics):
            output.line(f"{'':<12}{text}")
    show_faults(seen)


def show_faults(seen: RunView) -> None:
    """The author's own frames, where there are any."""
    for fault in seen.fault_samples:
        output.note(f"\nfault: {fault['kind']}: {fault['message']}")
        if fault.get("traceback"):
            output.note(fault["traceback"].rstrip())


def _total(seen: RunView) -> str:
    return str((seen.rows if seen.spec.get("algorithm") == "eval" else seen.steps) or "?")


def _from(spec: dict[str, object]) -> str:
    reference = spec.get("reference")
    return f", from {reference}" if reference and reference != spec.get("model") else ""


def _references(seen: RunView) -> list[str]:
    return [f"{seen.run_id}/step-{save.step}" for save in seen.saves]


def _print_event(event: RecordedEvent, options: Namespace) -> None:
    if options.json:
        print(json.dumps(msgspec.to_builtins(event)), flush=True)
    else:
        output.line(event_line(event))
    sys.stdout.flush()


def event_line(event: RecordedEvent) -> str:
    """When, what, and the fields that are short enough to read."""
    at = time.strftime("%H:%M:%S", time.localtime(event.time))
    fields = {name: value for name, value in event.body.items() if name not in ("org", "run_id", "submitted_at")}
    if isinstance(fields.get("metrics"), dict):
        fields |= fields.pop("metrics")
    shown = [f"{name}={_short(value)}" for name, value in fields.items() if _is_short(value)]
    return " ".join([at, event.event.rsplit(".", 1)[0], *shown])


def _is_short(value: object) -> bool:
    return isinstance(value, int | float) or (isinstance(value, str) and value != "")


def _short(value: object) -> str:
    if isinstance(value, str):
        text = " ".join(value.split())
        text = text if len(text) <= 120 else text[:117] + "..."
        return json.dumps(text) if " " in text else text
    return metrics.number(value)
