"""Writes `docs/events.md` and `docs/asyncapi.json` from the catalogue: `python -m flash.contracts.document docs`."""

import inspect
import json
import sys
from pathlib import Path
from typing import Any

import msgspec

from flash.contracts.base import STREAM, Event, Request
from flash.contracts.catalogue import EVENTS, REQUESTS, Row


def events_page() -> str:
    """A table of facts and one of requests, for people."""
    lines = [
        "# Events and requests",
        "",
        "Generated from `flash/contracts/catalogue.py`; do not edit by hand.",
        "",
        f"Every fact lies on the stream `{STREAM}` under a subject of its own, which is its identity:",
        "a second telling is refused.",
        "What a fact's fields mean is said beside them in `flash/contracts/`.",
        "",
        "| fact | what has happened | said by | heard by | subject | body |",
        "| --- | --- | --- | --- | --- | --- |",
        *(_event_line(row) for row in EVENTS),
        "",
        "A fact marked *fenced* may be told by one learner at a time: the stream refuses whoever has been overtaken.",
        "",
        "Who asks a request must be what its row says, or more: anybody, reader, member, admin, operator; and of the",
        "organisation that it is about.",
        "",
        "| request | what is asked | by whom | answered by | with |",
        "| --- | --- | --- | --- | --- |",
        *(_request_line(request) for request in REQUESTS),
        "",
    ]
    return "\n".join(lines)


def asyncapi() -> dict[str, Any]:
    """The catalogue as an AsyncAPI 3.0 document."""
    kinds: list[type] = [row.event for row in EVENTS]
    kinds += list(REQUESTS) + sorted({r.reply for r in REQUESTS}, key=lambda kind: kind.__name__)
    _, schemas = msgspec.json.schema_components(kinds, ref_template="#/components/schemas/{name}")
    channels = {row.event.name: _channel(row.event) for row in EVENTS}
    channels |= {f"ask.{request.service}.{request.name}": _request_channel(request) for request in REQUESTS}
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Flash",
            "version": "1",
            "description": f"Facts on the JetStream stream {STREAM}, and requests over NATS.",
        },
        "defaultContentType": "application/json",
        "channels": channels,
        "operations": _operations(),
        "components": {"schemas": schemas},
    }


def write(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "events.md").write_text(events_page())
    (folder / "asyncapi.json").write_text(asyncapi_text())


def asyncapi_text() -> str:
    return json.dumps(asyncapi(), indent=1, sort_keys=True) + "\n"


def _sentence(kind: type) -> str:
    return " ".join((inspect.getdoc(kind) or "").split("\n\n")[0].split())


def _template(event: type[Event]) -> str:
    return ".".join(("flash", event.name, *(f"<{field}>" for field in event.address)))


def _event_line(row: Row) -> str:
    event = row.event
    body = "JSON" if event.wire == "json" else "MessagePack"
    name = f"`{event.name}`" + (" (*fenced*)" if event.fence else "")
    heard = ", ".join(row.heard_by) or "–"
    cells = (name, _sentence(event), ", ".join(row.said_by), heard, f"`{_template(event)}`", body)
    return f"| {' | '.join(cells)} |"


def _request_line(request: type[Request]) -> str:
    answer = f"`{request.reply.__name__}`" + (", streamed" if request.streams else "")
    return f"| `{request.name}` | {_sentence(request) or '–'} | {request.role} | {request.service} | {answer} |"


def _channel(event: type[Event]) -> dict[str, Any]:
    content = "application/json" if event.wire == "json" else "application/msgpack"
    message = {
        "name": event.__name__,
        "summary": _sentence(event),
        "contentType": content,
        "payload": {"$ref": f"#/components/schemas/{event.__name__}"},
    }
    return {
        "address": ".".join(("flash", event.name, *(f"{{{field}}}" for field in event.address))),
        "parameters": {field: {} for field in event.address},
        "messages": {event.__name__: message},
    }


def _request_channel(request: type[Request]) -> dict[str, Any]:
    message = {
        "name": request.__name__,
        "summary": _sentence(request),
        "contentType": "application/msgpack",
        "payload": {"$ref": f"#/components/schemas/{request.__name__}"},
    }
    address = f"ask.{request.service}.{request.name}" + (f".{{{request.route}}}" if request.route else "")
    found: dict[str, Any] = {"address": address, "messages": {request.__name__: message}}
    return found | ({"parameters": {request.route: {}}} if request.route else {})


def _operations() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for row in EVENTS:
        ref = {"$ref": f"#/channels/{row.event.name}"}
        found |= {f"{s}.says.{row.event.name}": {"action": "send", "channel": ref} for s in row.said_by}
        found |= {f"{s}.hears.{row.event.name}": {"action": "receive", "channel": ref} for s in row.heard_by}
    for request in REQUESTS:
        ref = {"$ref": f"#/channels/ask.{request.service}.{request.name}"}
        found[f"{request.service}.answers.{request.name}"] = {"action": "receive", "channel": ref}
    return found


if __name__ == "__main__":
    write(Path(sys.argv[1]))
