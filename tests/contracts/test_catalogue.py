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
from flash.contracts.catalogue import BY_NAME, EVENTS, REQUESTS, kind_of, noun_pattern

ROOT = Path(__file__).parents[2]
SERVICES = sorted(p.parent.name for p in (ROOT / "services").glob("*/__init__.py"))


def calling_card(service: str) -> dict[str, set[str]]:
    text = importlib.import_module(f"services.{service}").__doc__ or ""
    parts = re.split(r"^(Hears|Says|Answers|Keeps)\s", text, flags=re.M)[1:]
    found = dict(zip(parts[::2], parts[1::2], strict=True))
    return {
        head: set(re.findall(r"[a-z]+\.[a-z-]+|\bgenerate\b", found[head])) for head in ("Hears", "Says", "Answers")
    }


def short(event: type[Event]) -> str:
    return event.name.rsplit(".", 1)[0]


@pytest.mark.parametrize("service", SERVICES)
def test_a_calling_card_says_what_the_catalogue_says(service: str) -> None:
    card = calling_card(service)

    assert card["Says"] == {short(row.event) for row in EVENTS if service in row.said_by}
    assert card["Hears"] == {short(row.event) for row in EVENTS if service in row.heard_by}
    assert card["Answers"] == {request.name for request in REQUESTS if request.service == service}


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
