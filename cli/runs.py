"""`flash runs`, `status`, `log`, `cancel`, `resume`, `checkpoints`: looking at runs, stopping and reopening them."""

import json
import sys
import time
from argparse import Namespace
from dataclasses import asdict, replace

import msgspec

from cli import metrics, output
from cli.session import stack
from flash import client
from flash.bus import Bus
from flash.client.following import told_so_far
from flash.client.view import RunView, after
from flash.contracts.requests import RecordedEvent
from flash.errors import BusError, NotFound

FAILED = 1


async def runs(options: Namespace) -> None:
    async with stack(options) as bus:
        listing = await client.runs(bus, states=options.states, most=options.limit or None)
    if output.wants_json(options):
        output.data([msgspec.to_builtins(state) for state in listing.runs])
        return
    now = time.time()
    output.table(
        ("RUN", "STATE", "ALGORITHM", "STEP", "MODEL", "ENVIRONMENT", "AGE", "NAME"),
        [
            (s.run_id, s.state + f" ({s.position})" * (s.position > 0), s.algorithm,
             f"{max(s.step, 0)}/{s.steps or '?'}", s.model, s.environment, output.ago(now - s.submitted_at), s.name)
            for s in listing.runs
        ],
        spare=("ALGORITHM", "MODEL", "NAME"),
    )  # fmt: skip
    if len(listing.runs) < listing.total:
        output.note(f"{len(listing.runs)} of {listing.total}; all of them: flash runs -n 0")


async def status(options: Namespace) -> int | None:
    async with stack(options) as bus:
        if not options.follow:
            seen = await _standing(bus, await client.view(bus, options.run_id))
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
        if options.follow and not client.folded(RunView(options.run_id), events).is_over:
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


async def resume(options: Namespace) -> int | None:
    async with stack(options) as bus:
        state = await client.resume(bus, options.run_id)
        seen = await client.view(bus, options.run_id)
        place = f"from {seen.checkpoint}" if seen.saves else "from its start"
        output.note(f"{state.run_id} is queued again, attempt {state.attempt}, {place}")
        if not options.follow:
            output.data(msgspec.to_builtins(state)) if output.wants_json(options) else output.line(state.run_id)
            output.note(f"follow it: flash status {state.run_id} -f")
            return None
        from cli.watching import watch

        seen = await watch(bus, options.run_id)
    output.data(as_data(seen)) if output.wants_json(options) else show(seen)
    return None if seen.state == "done" else FAILED


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
    if seen.saves:
        output.note(f"talk to one: flash chat {seen.checkpoint}")
    else:
        output.note(f"{seen.run_id} is {seen.state} and has saved nothing yet")


def as_data(seen: RunView) -> dict[str, object]:
    """A run as programs read it."""
    told = {name: value for name, value in asdict(seen).items() if name != "finished_at"}
    return {**told, "checkpoint": seen.checkpoint, "remaining_s": seen.remaining_s}


async def _standing(bus: Bus, seen: RunView) -> RunView:
    """The view, with what only the scheduler knows of a run that is not over: what it waits for."""
    if seen.is_over:
        return seen
    try:
        state = await client.standing(bus, seen.run_id, patience_s=3.0)
    except BusError as error:
        output.note(f"what it waits for is not known: {error}")
        return seen
    return seen if state.ended_at else replace(seen, waiting_for=state.waiting_for)


def show(seen: RunView) -> None:
    """A run as people read it."""
    spec = seen.spec
    until = seen.ended_at or time.time()
    lines = [
        ("run", seen.run_id + (f"  ({spec['name']})" if spec.get("name") else "")),
        ("state", seen.state + (f", waiting for {seen.waiting_for}" if seen.waiting_for else "")),
        ("reason", seen.reason),
        ("attempt", seen.attempt if seen.attempt > 1 else ""),
        *(("retried", reason) for reason in seen.retries),
        *(("warning", warning) for warning in seen.warnings),
        ("algorithm", spec.get("algorithm", "")),
        ("model", spec.get("model", "") + _from(spec)),
        ("environment", "{id}@{version}".format(**spec["environment"]) if spec else ""),
        ("step", f"{seen.step}/{_total(seen)}"),
        ("metrics", metrics.row(spec.get("algorithm", ""), seen.step, seen.metrics) if seen.metrics else ""),
        ("reward", metrics.curve(seen.rewards)),
        *(("evaluated", metrics.evaluated(each.step, each.metrics)) for each in seen.evaluations[-1:]),
        ("faults", f"{seen.faults} of {seen.rollouts} rollouts" if seen.rollouts else ""),
        ("took", output.ago(until - seen.submitted_at)),
        ("remaining", f"about {output.ago(seen.remaining_s)}" if seen.remaining_s is not None else ""),
        ("checkpoint", seen.checkpoint),
    ]
    for name, value in lines:
        if value:
            for text in output.field(name, value):
                output.line(text)
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
    if output.wants_json(options):
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
