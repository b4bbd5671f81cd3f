"""`flash trace`: what led to what in a run, a step or a group, and how long each hop took."""

import re
from argparse import Namespace
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cli import metrics, output
from cli.session import stack
from flash.client.following import told_so_far
from flash.contracts.requests import RecordedEvent
from flash.errors import ConfigError, NotFound

_WHAT = re.compile(r"step-(?P<step>\d+)|(?P<scope>train|eval)-(?P<of>\d+)-(?P<group>\d+)")
_TOLD = ("attempt", "learner", "replica", "took_s", "chunk", "rows", "steps", "final", "reason", "kind", "message")
"""Fields of a fact that its line shows, where it has them."""


@dataclass
class Node:
    """A fact, and what it led to."""

    event: RecordedEvent
    after_s: float | None
    """Since what led to it, or what it waited for; None: nothing that is shown did."""
    children: list["Node"] = field(default_factory=list)


async def trace(options: Namespace) -> None:
    chosen = _chosen(options.what)
    async with stack(options) as bus:
        events = await told_so_far(bus, options.run_id)
        if not events:
            raise NotFound(f"there is no run {options.run_id}: `flash runs` lists them")
        if chosen:
            step = int(chosen["step"] or chosen["of"] or 0)
            events += await told_so_far(bus, options.run_id, nouns=["group"], step=step)
    roots = tree(selected(events, chosen) if chosen else events)
    if not roots:
        raise NotFound(f"{options.run_id} has no {options.what} yet: `flash trace {options.run_id}` shows what it has")
    if output.wants_json(options):
        output.data([as_data(root) for root in roots])
        return
    for root in roots:
        for line in drawn(root):
            output.line(line)


def selected(events: Sequence[RecordedEvent], chosen: Mapping[str, str | None]) -> list[RecordedEvent]:
    """What is about a step, or a group of one, and what directly led to that; nothing where nothing is."""

    def is_meant(event: RecordedEvent) -> bool:
        body, noun = event.body, event.event.split(".")[0]
        if chosen["step"]:
            is_policys = event.event.startswith("step.") and body.get("step") == int(chosen["step"])
            return is_policys or (noun == "group" and body["step"] == int(chosen["step"]))
        group = (chosen["scope"], int(chosen["of"] or 0), int(chosen["group"] or 0))
        return noun == "group" and (body["scope"], body["step"], body["group"]) == group

    meant = [event for event in events if is_meant(event)]
    subjects = {event.subject for event in meant}
    causes = {event.caused_by for event in meant} - subjects
    return sorted([*meant, *(e for e in events if e.subject in causes)], key=lambda event: event.sequence)


def tree(events: Iterable[RecordedEvent]) -> list[Node]:
    """Each fact under what led to it. A learner works through its steps one after the other, so each of them stands
    beside the one before, and its time counts from there, or from the last of its groups.
    """
    nodes: dict[str, Node] = {}
    roots: list[Node] = []
    before: dict[str, float] = {}
    for event in sorted(events, key=lambda event: event.sequence):
        cause = nodes.get(event.caused_by)
        since = cause.event.time if cause else None
        if event.event.startswith("step."):
            since = before.get("scored", before.get("step", since))
            before["step"] = event.time
            before.pop("scored", None)
        elif event.event.startswith("group.scored.") and event.body["scope"] == "train":
            before["scored"] = event.time
        node = Node(event, None if since is None else max(0.0, event.time - since))
        nodes[event.subject] = node
        (cause.children if cause else roots).append(node)
    return roots


def drawn(node: Node, lead: str = "", stem: str = "") -> Iterator[str]:
    """A line for the fact, and one for each that it led to."""
    took = "" if node.after_s is None else f"  +{_span(node.after_s)}"
    told = "".join(f"  {name}={_short(node.event.body[name])}" for name in _TOLD if node.event.body.get(name))
    yield f"{lead}{name_of(node.event)}{took}{told}"
    for child in node.children:
        is_last = child is node.children[-1]
        yield from drawn(child, stem + ("└─ " if is_last else "├─ "), stem + ("   " if is_last else "│  "))


def name_of(event: RecordedEvent) -> str:
    """The fact, and which one of its kind."""
    body, name = event.body, event.event.rsplit(".", 1)[0]
    if name.startswith("group."):
        return f"{name} {body['scope']}-{body['step']}-{body['group']}"
    return f"{name} {body['step']}" if "step" in body else name


def as_data(node: Node) -> dict[str, Any]:
    """A tree as programs read it."""
    event = node.event
    return {
        "event": event.event,
        "subject": event.subject,
        "time": event.time,
        "after_s": node.after_s,
        "children": [as_data(child) for child in node.children],
    }


def _chosen(what: str) -> dict[str, str | None]:
    """Raises ConfigError for what is neither a step nor a group."""
    if not what:
        return {}
    if (found := _WHAT.fullmatch(what)) is None:
        raise ConfigError(f"{what!r} is neither a step nor a group: they are called like step-3 and train-3-1")
    return found.groupdict()


def _span(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 10 else f"{seconds * 1e3:.0f} ms" if seconds < 1 else f"{seconds:.2f} s"


def _short(value: object) -> str:
    text = " ".join(str(value).split()) if isinstance(value, str) else metrics.number(value)
    return text if len(text) <= 60 else text[:57] + "..."
