"""The catalogue, the calling cards and the generated documents say the same."""

import ast
import importlib
import json
import re
import sys
from pathlib import Path

import pytest

from flash.contracts import document
from flash.contracts.base import Event
from flash.contracts.catalogue import ASKS, BY_NAME, EVENTS, FORGETS, RECORDS, REQUESTS, kind_of, noun_pattern

ROOT = Path(__file__).parents[2]
SERVICES = sorted(p.parent.name for p in (ROOT / "services").glob("*/__init__.py"))


def calling_card(service: str) -> dict[str, set[str]]:
    text = importlib.import_module(f"services.{service}").__doc__ or ""
    parts = re.split(r"^(Hears|Says|Answers|Asks|Keeps)\s", text, flags=re.M)[1:]
    found = dict(zip(parts[::2], parts[1::2], strict=True))
    heads = ("Hears", "Says", "Answers", "Asks")
    return {head: set(re.findall(r"[a-z]+\.[a-z-]+|\bgenerate\b", found[head])) for head in heads}


def made(service: str) -> tuple[set[str], set[str], bool]:
    """The classes that its code makes something of, the buckets of records that it opens, and whether it forgets."""
    names, buckets, forgets = set[str](), set[str](), False
    calls = (
        node
        for path in (ROOT / "services" / service).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
    )
    for call in calls:
        name = call.func.id if isinstance(call.func, ast.Name) else getattr(call.func, "attr", "")
        names.add(name)
        if name == "records":
            assert isinstance(call.args[0], ast.Constant)
            buckets.add(call.args[0].value)
        forgets |= ast.unparse(call.func).endswith("bus.forget")
    return names, buckets, forgets


def short(event: type[Event]) -> str:
    return event.name.rsplit(".", 1)[0]


@pytest.mark.parametrize("service", SERVICES)
def test_a_calling_card_says_what_the_catalogue_says(service: str) -> None:
    card = calling_card(service)

    assert card["Says"] == {short(row.event) for row in EVENTS if service in row.said_by}
    assert card["Hears"] == {short(row.event) for row in EVENTS if service in row.heard_by}
    assert card["Answers"] == {request.name for request in REQUESTS if request.service == service}
    assert card["Asks"] == {request.name for request in ASKS[service]}


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_says_asks_and_keeps_what_the_catalogue_lets_it_and_nothing_else(service: str) -> None:
    """What a NATS server lets it do follows from there: for what is missing it would wait for ever."""
    names, buckets, forgets = made(service)

    said = {row.event.__name__ for row in EVENTS if service in row.said_by}
    foreign = {row.event.__name__ for row in EVENTS} - said - ({"StepFinished"} if service == "recorder" else set())
    assert said <= names
    assert not foreign & names
    asked = {request.__name__ for request in REQUESTS} & names | {"TokenCheck"}  # `flash.access` asks that for all
    assert asked == {request.__name__ for request in ASKS[service]}
    assert buckets == set(RECORDS.get(service, ()))
    assert forgets == (service in FORGETS)


def test_every_teller_and_hearer_is_a_service() -> None:
    named = {service for row in EVENTS for service in (*row.said_by, *row.heard_by)}

    assert named | {request.service for request in REQUESTS} <= set(SERVICES)


def test_the_documents_are_current() -> None:
    assert (ROOT / "docs/events.md").read_text() == document.events_page()
    assert json.loads((ROOT / "docs/asyncapi.json").read_text()) == document.asyncapi()


@pytest.mark.parametrize("row", EVENTS, ids=lambda row: row.event.name)
def test_a_fact_is_addressed_by_fields_it_has_and_named_like_its_class(row: object) -> None:
    event = row.event  # type: ignore[attr-defined]
    words = re.split(r"[.-]", short(event))

    assert set(event.address) <= set(event.__struct_fields__)
    assert event.__name__.lower() == "".join(words)
    assert event.name.endswith(".v1")


def test_a_subject_tells_which_fact_it_is() -> None:
    for name, kind in BY_NAME.items():
        assert kind_of(f"flash.{name}.local.run") is kind
    with pytest.raises(LookupError, match="no fact of the catalogue"):
        kind_of("flash.run.imagined.v1.local.run")


def test_the_facts_of_a_noun_about_one_run_leave_other_runs_out() -> None:
    assert noun_pattern("group", "local", "r1") == [
        "flash.group.requested.v1.*.local.r1.*.*.*.*",
        "flash.group.generated.v1.local.r1.*.*.*.*",
        "flash.group.scored.v1.local.r1.*.*.*",
        "flash.group.cancelled.v1.local.r1.*.*.*.*",
    ]


def test_contracts_import_msgspec_and_nothing_else() -> None:
    allowed = sys.stdlib_module_names | {"msgspec"}
    for path in (ROOT / "flash/contracts").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                assert name.split(".")[0] in allowed or name.startswith("flash.contracts"), f"{path.name}: {name}"
