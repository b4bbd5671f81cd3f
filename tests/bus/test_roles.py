"""What each service may do on a NATS server, and what not: flash/bus/jetstream/roles.py, on a real server."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import nats
import pytest
from nats.aio.client import Client

from flash.bus.jetstream import connect, roles
from flash.bus.server import NatsServer
from flash.contracts.catalogue import EVENTS, RECORDS, REQUESTS, SERVICES
from flash.store.memory import MemoryStore

SECRET = "hush"


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[NatsServer]:
    """With its streams."""
    async with NatsServer(tmp_path, more=roles.authorization(SECRET)) as started:
        keeper = await connect(url(started, "scheduler"), MemoryStore(), "scheduler:1")
        yield started
        await keeper.close(0)


def url(server: NatsServer, service: str) -> str:
    return server.url.replace("//", f"//{service}:{roles.password(SECRET, service)}@")


async def refused(server: NatsServer, service: str, *, sends: list[str], hears: list[str]) -> set[str]:
    """What of this the server does not let a service do."""
    found: set[str] = set()

    async def on_error(error: Exception) -> None:
        found.update(said for said in (*sends, *hears) if f'"{said.lower()}"' in str(error).lower())

    client: Client = await nats.connect(url(server, service), error_cb=on_error)
    for subject in sends:
        await client.publish(subject, b"", reply=f"_INBOX.{service}.x")
    for subject in hears:
        await client.subscribe(subject)
    await client.flush()
    await asyncio.sleep(0.05)
    await client.close()
    return found


@pytest.mark.parametrize("service", SERVICES)
async def test_a_service_tells_its_own_facts_buries_those_it_hears_and_answers_its_own_questions_and_no_others(
    service: str, server: NatsServer
) -> None:
    facts = {row.event.pattern().replace("*", "x"): service in row.said_by for row in EVENTS}
    facts |= {f"dead.pool.{row.event.pattern().replace('*', 'x')}": service in row.heard_by for row in EVENTS}
    questions = {f"ask.{kind.service}.{kind.name}": kind.service == service for kind in REQUESTS if not kind.route}
    others = [one for one in SERVICES if one != service]

    found = await refused(server, service, sends=[*facts], hears=[*questions])

    assert found == {subject for subject, is_own in {**facts, **questions}.items() if not is_own}
    inboxes = [f"_INBOX.{one}.>" for one in others]
    assert await refused(server, service, sends=[], hears=[*inboxes, "flash.>", ">"]) == {*inboxes, "flash.>", ">"}
    buckets = {f"$KV.{bucket}.x": bucket in RECORDS.get(service, ()) for kept in RECORDS.values() for bucket in kept}
    assert await refused(server, service, sends=[*buckets], hears=[]) == {
        s for s, is_own in buckets.items() if not is_own
    }


async def test_nobody_but_who_must_changes_the_stream(server: NatsServer) -> None:
    verbs = ("DELETE", "PURGE", "UPDATE", "MSG.DELETE", "RESTORE", "SNAPSHOT")
    api = [f"$JS.API.STREAM.{verb}.FLASH" for verb in verbs]

    allowed = {service: {*api} - await refused(server, service, sends=api, hears=[]) for service in SERVICES}

    assert {service: verbs for service, verbs in allowed.items() if verbs} == {
        "scheduler": {"$JS.API.STREAM.UPDATE.FLASH"},
        "recorder": {"$JS.API.STREAM.PURGE.FLASH"},
    }


async def test_passwords_are_each_service_s_own(server: NatsServer) -> None:
    assert len({roles.password(SECRET, service) for service in SERVICES}) == len(SERVICES)
    with pytest.raises(nats.errors.Error):
        await nats.connect(
            server.url.replace("//", f"//hub:{roles.password(SECRET, 'scorer')}@"),
            allow_reconnect=False,
            connect_timeout=2,
        )
