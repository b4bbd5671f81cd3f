"""Who comes onto the bus with a token, and what they can do there: flash/bus/jetstream/logins.py, on a real server."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import nats
import pytest

from flash.access import Access
from flash.bus.jetstream import JetStreamBus, connect
from flash.bus.jetstream.connection import inbox_of
from flash.bus.jetstream.logins import answer_logins, issuer, permissions
from flash.bus.server import NatsServer
from flash.client.connection import connect as connect_client
from flash.client.tokens import create_org, create_token, revoke_token, whose
from flash.contracts.access import Caller
from flash.contracts.requests import RunCancel, RunList, RunListing, RunState
from flash.contracts.runs import RunCancelRequested
from flash.errors import BusError, Refused
from flash.records import MemoryRecords
from flash.store.memory import MemoryStore
from services.hub.organisations import Organisations

SEED = "5e" * 32
OPERATOR = "flash_local_operator_" + "s" * 40
USERS = f"""
authorization {{
  timeout: 5
  users: [ {{ user: services, password: secret }} ]
  auth_callout {{ issuer: {issuer(SEED)}, auth_users: [ services ] }}
}}
"""


@dataclass
class Stack:
    server: NatsServer
    services: JetStreamBus

    async def person(self, token: str) -> JetStreamBus:
        bus = await connect_client(environment={"FLASH_URL": self.server.url, "FLASH_TOKEN": token})
        assert isinstance(bus, JetStreamBus)
        return bus


@pytest.fixture
async def stack(tmp_path: Path) -> AsyncIterator[Stack]:
    """A server that asks the hub who somebody is, the hub, and a scheduler without runs."""
    async with NatsServer(tmp_path / "nats", more=USERS) as server:
        url = server.url.replace("//", "//services:secret@")
        services = await connect(url, MemoryStore(), "hub:1", token=OPERATOR)
        organisations = Organisations(MemoryRecords(), OPERATOR, now=lambda: 7.0)
        admit = Access(services, OPERATOR).admit

        async def listing(request: RunList) -> RunListing:
            return RunListing(runs=[])

        async def cancel(request: RunCancel) -> RunState:
            raise AssertionError("nobody may ask this here")

        await services.answer("hub", organisations.answers(), admit)
        await services.answer("scheduler", {RunList: listing, RunCancel: cancel}, admit)
        await answer_logins(services.connection, SEED, organisations.check)
        yield Stack(server, services)
        await services.close(0)


async def test_a_token_is_all_it_takes_to_ask(stack: Stack) -> None:
    operator = await stack.person(OPERATOR)
    token = await create_org(operator, "acme")
    person = await stack.person(token)

    assert (await whose(person, token)).org == "acme"
    assert await person.ask(RunList(org="acme")) == RunListing(runs=[])
    assert {replica.service for replica in await person.replicas()} == {"hub", "scheduler"}
    assert await operator.pools() == []
    for bus in (operator, person):
        await bus.close(0)


@pytest.mark.parametrize("token", ["flash_acme_0123_" + "x" * 40, OPERATOR[:-1] + "t", ""])
async def test_nobody_comes_in_without_a_token_that_is_known(stack: Stack, token: str) -> None:
    with pytest.raises(BusError, match=r"refuses us: .*`flash login URL` asks for a token"):
        await stack.person(token)


async def test_people_can_neither_tell_nor_read_facts_nor_hear_what_others_are_answered(stack: Stack) -> None:
    token = await create_org(stack.services, "acme")
    other = await create_org(stack.services, "beta")
    refused: list[str] = []

    async def on_error(error: Exception) -> None:
        refused.append(str(error).lower())

    person = await nats.connect(stack.server.url, token=token, inbox_prefix=inbox_of(token), error_cb=on_error)
    fact = RunCancelRequested(org="acme", run_id="r1")
    heard = [">", "_INBOX.>", "_INBOX.*.*.*", f"{inbox_of(other)}.>", "ask.>", "flash.>", fact.pattern(org="acme")]
    said = [fact.subject, "$JS.API.STREAM.MSG.GET.FLASH", "$KV.organisations.acme", f"{inbox_of(OPERATOR)}.x.1",
            "ask.scorer.episode.renew.s1", "$JS.API.STREAM.PURGE.FLASH", "$JS.API.CONSUMER.LIST.FLASH"]  # fmt: skip
    for subject in heard:
        await person.subscribe(subject)
    for subject in said:
        await person.publish(subject, b"{}")
    await person.flush()
    await asyncio.sleep(0.2)
    await person.close()

    assert [s for s in heard if not any(f'subscription to "{s.lower()}"' in error for error in refused)] == []
    assert [s for s in said if not any(f'publish to "{s.lower()}"' in error for error in refused)] == []
    assert await stack.services.last(fact.subject) is None


async def test_what_a_role_may_not_ask_is_refused_at_once_and_in_a_sentence(stack: Stack) -> None:
    admin = await stack.person(await create_org(stack.services, "acme"))
    reader = await stack.person(await create_token(admin, "reader"))

    assert await reader.ask(RunList(org="acme")) == RunListing(runs=[])
    with pytest.raises(Refused, match=r"run\.cancel wants the role member, but this token of acme has reader"):
        await reader.ask(RunCancel(org="acme", run_id="r1"))
    with pytest.raises(Refused, match=r"org\.create wants the role operator"):
        await create_org(admin, "beta")
    for bus in (admin, reader):
        await bus.close(0)


def test_what_services_ask_each_other_does_not_even_reach_them_from_others() -> None:
    people, operator = (
        set(permissions(Caller(org="acme", role=role), OPERATOR)["pub"]["allow"]) for role in ("admin", "operator")
    )

    assert people < operator
    assert {"ask.recorder.events.find", "ask.rollout.generate.*", "ask.hub.token.create"} <= people
    assert operator - people == {
        "$JS.API.CONSUMER.LIST.FLASH", "ask.scorer.episode.start", "ask.scorer.episode.step.*",
        "ask.scorer.episode.score.*", "ask.scorer.episode.renew.*", "ask.scorer.episode.close.*",
    }  # fmt: skip


async def test_the_holder_of_a_revoked_token_is_refused_where_they_are_already_in(stack: Stack) -> None:
    token = await create_org(stack.services, "acme")
    person = await stack.person(token)
    await revoke_token(stack.services, token.split("_")[2], org="acme")

    with pytest.raises(Refused, match="not known here, or was revoked"):
        await person.ask(RunList(org="acme"))
    with pytest.raises(BusError, match="refuses us"):
        await stack.person(token)
    await person.close(0)
