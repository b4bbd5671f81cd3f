"""Organisations and their tokens, as the hub keeps them."""

import pytest

from flash.client.tokens import minted
from flash.contracts.access import OrgCreate, TokenCheck, TokenCreate, TokenList, TokenRevoke, TokenState
from flash.errors import NotFound, Refused
from flash.records import MemoryRecords
from services.hub.organisations import Organisations

OPERATOR = "flash_local_operator_" + "s" * 40


@pytest.fixture
def hub() -> Organisations:
    return Organisations(MemoryRecords(), OPERATOR, now=lambda: 7.0)


async def test_an_organisation_begins_with_an_admins_token(hub: Organisations) -> None:
    text, token = minted("acme", "admin", "first")

    made = await hub.on_org_create(OrgCreate(org="acme", token=token))

    assert made == TokenState(id=token.id, role="admin", name="first", created_at=7.0)
    caller = await hub.on_token_check(TokenCheck(token=text))
    assert (caller.org, caller.role, caller.token_id, caller.name) == ("acme", "admin", token.id, "first")


async def test_asked_twice_it_is_one_and_asked_by_somebody_else_it_is_refused(hub: Organisations) -> None:
    asked = OrgCreate(org="acme", token=minted("acme", "admin")[1])

    assert await hub.on_org_create(asked) == await hub.on_org_create(asked)
    with pytest.raises(Refused, match="there is an organisation acme already: `flash token create --org acme`"):
        await hub.on_org_create(OrgCreate(org="acme", token=minted("acme", "admin")[1]))
    more = TokenCreate(org="acme", token=minted("acme", "reader")[1])
    assert await hub.on_token_create(more) == await hub.on_token_create(more)
    assert len((await hub.on_token_list(TokenList(org="acme"))).tokens) == 2


@pytest.mark.parametrize("name", ["local", "public"])
async def test_some_names_mean_something_already(hub: Organisations, name: str) -> None:
    with pytest.raises(Refused, match=f"{name} means "):
        await hub.on_org_create(OrgCreate(org=name, token=minted(name, "admin")[1]))


async def test_the_operators_own_organisation_needs_no_making(hub: Organisations) -> None:
    text, token = minted("local", "member", "ci")

    assert (await hub.on_token_list(TokenList(org="local"))).tokens == []
    await hub.on_token_create(TokenCreate(org="local", token=token))

    assert (await hub.on_token_check(TokenCheck(token=text))).role == "member"


async def test_an_id_is_one_tokens(hub: Organisations) -> None:
    _, token = minted("acme", "admin")
    await hub.on_org_create(OrgCreate(org="acme", token=token))
    _, other = minted("acme", "admin")

    with pytest.raises(Refused, match=f"acme has another token {token.id}"):
        await hub.on_token_create(
            TokenCreate(org="acme", token=type(other)(id=token.id, digest=other.digest, role="admin"))
        )


async def test_a_revoked_token_is_known_no_more(hub: Organisations) -> None:
    text, token = minted("acme", "admin")
    await hub.on_org_create(OrgCreate(org="acme", token=token))

    revoked = await hub.on_token_revoke(TokenRevoke(org="acme", id=token.id))

    assert revoked.id == token.id
    with pytest.raises(Refused, match="not known here, or was revoked"):
        await hub.on_token_check(TokenCheck(token=text))
    with pytest.raises(NotFound, match=f"acme has no token {token.id}"):
        await hub.on_token_revoke(TokenRevoke(org="acme", id=token.id))
    # The last admin is gone: the operator makes another.
    await hub.on_token_create(TokenCreate(org="acme", token=minted("acme", "admin")[1]))


async def test_there_is_nothing_of_an_organisation_that_is_not_there(hub: Organisations) -> None:
    for asking in (
        hub.on_token_list(TokenList(org="acme")),
        hub.on_token_create(TokenCreate(org="acme", token=minted("acme", "admin")[1])),
        hub.on_token_revoke(TokenRevoke(org="acme", id="abc")),
    ):
        with pytest.raises(NotFound, match="there is no organisation acme: `flash org create acme`"):
            await asking
