"""Who may ask what: flash/access.py, with the hub's own answers behind it."""

from typing import Any

import msgspec
import pytest

from flash.access import BELIEVED_S, Access
from flash.bus.memory import MemoryBus
from flash.client.tokens import create_org, create_token, minted, revoke_token, whose
from flash.config.settings import ServiceSettings
from flash.contracts.access import Caller, OrgCreate, TokenCheck, TokenCreate, TokenList
from flash.contracts.base import Done, Request
from flash.contracts.catalogue import REQUESTS
from flash.contracts.hosting import EnvironmentCheck, EpisodeRenew
from flash.contracts.requests import EnvironmentFetch, EnvironmentResolve, RunCancel, RunList, RunListing, RunSubmit
from flash.contracts.spec import EnvironmentSpec, RunSpec
from flash.errors import ConfigError, FlashError, NotFound, Refused
from services.hub.organisations import Organisations

OPERATOR = "flash_local_operator_" + "s" * 40


class Stack:
    """A hub and a scheduler that let nobody in who may not come in."""

    def __init__(self, bus: MemoryBus, operator_token: str) -> None:
        self.now = 0.0
        self.bus = bus
        self.records = bus.records("organisations")
        self.operator_token = operator_token
        self.checks = 0

    async def start(self) -> "Stack":
        hub = self.bus.replica("hub:1", self.operator_token)
        organisations = Organisations(self.records, self.operator_token, now=lambda: 7.0)
        answers = dict(organisations.answers())
        check = answers[TokenCheck]

        async def counted(request: TokenCheck) -> Caller:
            self.checks += 1
            return await check(request)

        answers[TokenCheck] = counted
        await hub.answer("hub", answers, self._access(hub).admit)
        scheduler = self.bus.replica("scheduler:1", self.operator_token)
        await scheduler.answer("scheduler", {RunList: self._listing}, self._access(scheduler).admit)
        scorer = self.bus.replica("scorer:1", self.operator_token)
        await scorer.answer("scorer", {EpisodeRenew: self._done}, self._access(scorer).admit, replica="s1")
        return self

    def asker(self, token: str = "") -> MemoryBus:
        return self.bus.replica("cli:1", token)

    async def admits(self, token: str, request: Request) -> FlashError | None:
        """What somebody with this token hears, if they are not let in."""
        try:
            await self._access(self.bus.replica("x:1", self.operator_token)).admit(request, token)
        except FlashError as error:
            return error
        return None

    def _access(self, bus: MemoryBus) -> Access:
        return Access(bus, self.operator_token, clock=lambda: self.now)

    async def _listing(self, request: RunList) -> RunListing:
        return RunListing(runs=[])

    async def _done(self, request: EpisodeRenew) -> Done:
        return Done()


@pytest.fixture
async def guarded() -> Stack:
    return await Stack(MemoryBus(), OPERATOR).start()


@pytest.fixture
async def unguarded() -> Stack:
    return await Stack(MemoryBus(), "").start()


async def test_whoever_reaches_an_open_stack_is_its_operator(unguarded: Stack) -> None:
    assert await whose(unguarded.asker(), "") == Caller(org="local", role="operator")
    assert await unguarded.asker().ask(RunList(org="local")) == RunListing(runs=[])
    assert unguarded.checks == 1  # none but the question itself


async def test_an_open_stack_holds_a_token_to_what_it_says_all_the_same(unguarded: Stack) -> None:
    acme = await create_org(unguarded.asker(), "acme")

    assert await unguarded.asker(acme).ask(RunList(org="acme")) == RunListing(runs=[])
    with pytest.raises(NotFound, match="there is no 'local' here that a token of acme can see"):
        await unguarded.asker(acme).ask(RunList(org="local"))


async def test_without_a_token_nobody_is_let_into_a_stack_that_wants_one(guarded: Stack) -> None:
    with pytest.raises(Refused, match="this stack wants a token: `flash login URL`"):
        await guarded.asker().ask(RunList(org="local"))
    with pytest.raises(Refused, match="this stack wants a token"):
        await whose(guarded.asker(), "")


async def test_a_token_that_is_not_known_is_refused_however_much_of_it_is_right(guarded: Stack) -> None:
    token = await create_org(guarded.asker(OPERATOR), "acme")
    wrong = [token[:-1] + ("a" if token[-1] != "a" else "b"), minted("acme", "admin")[0], OPERATOR[:-1] + "t", "junk"]

    for text in [*wrong, token.replace("acme", "beta")]:
        with pytest.raises(Refused, match="this token is not known here, or was revoked"):
            await guarded.asker(text).ask(RunList(org="acme"))


async def test_what_the_hub_keeps_of_a_token_is_of_no_use(guarded: Stack) -> None:
    token = await create_org(guarded.asker(OPERATOR), "acme")
    another = await create_token(guarded.asker(token), "member", "laptop")

    kept = b"".join((await guarded.records.all()).values()).decode()
    for text in (token, another):
        assert text not in kept
        assert text.rpartition("_")[2] not in kept
        assert text.split("_", 3)[3] not in kept


async def test_each_role_may_do_what_those_below_it_may(guarded: Stack) -> None:
    admin = await create_org(guarded.asker(OPERATOR), "acme")
    member = await create_token(guarded.asker(admin), "member")
    reader = await create_token(guarded.asker(admin), "reader")
    look, train = RunList(org="acme"), RunCancel(org="acme", run_id="r1")
    give, found = TokenList(org="acme"), OrgCreate(org="beta", token=minted("beta", "admin")[1])

    may = {
        who: [await guarded.admits(token, request) is None for request in (look, train, give, found)]
        for who, token in {"reader": reader, "member": member, "admin": admin, "operator": OPERATOR}.items()
    }

    assert may == {
        "reader": [True, False, False, False],
        "member": [True, True, False, False],
        "admin": [True, True, True, False],
        "operator": [True, True, True, True],
    }
    refused = await guarded.admits(reader, train)
    assert str(refused) == (
        "run.cancel wants the role member, but this token of acme has reader: "
        "an admin makes another with `flash token create`"
    )


def spec(org: str, environment: str, key: str) -> RunSpec:
    return RunSpec(
        org=org, run_id="r1", algorithm="sft", model="tiny", pool="tiny", seed=1, split="train",
        environment=EnvironmentSpec(id=environment, version="v", digest="d", key=key),
    )  # fmt: skip


OWN_KEY, OTHER_KEY = "environments/acme/sums/v.tar.zst", "environments/beta/sums/v.tar.zst"


@pytest.mark.parametrize(
    "request_",
    [
        RunList(org="beta"),
        RunCancel(org="beta", run_id="r1"),
        EnvironmentResolve(reference="beta/sums"),
        EnvironmentFetch(reference="beta/sums@v"),
        EnvironmentCheck(key=OTHER_KEY, digest="d"),
        EnvironmentCheck(key="uploads/d/000000", digest="d"),
        EnvironmentCheck(key="environments/acme/../beta/sums/v.tar.zst", digest="d"),
        RunSubmit(spec=spec("beta", "acme/sums", OWN_KEY)),
        RunSubmit(spec=spec("acme", "beta/sums", OWN_KEY)),
        RunSubmit(spec=spec("acme", "acme/sums", OTHER_KEY)),
        RunSubmit(spec=spec("acme", "acme/sums", "runs/r9/blobs/d")),
        TokenCreate(org="beta", token=minted("beta", "reader")[1]),
    ],
    ids=lambda request: f"{request.name}",
)
async def test_what_belongs_to_another_organisation_is_not_there(guarded: Stack, request_: Request) -> None:
    acme = await create_org(guarded.asker(OPERATOR), "acme")
    await create_org(guarded.asker(OPERATOR), "beta")

    assert isinstance(await guarded.admits(acme, request_), NotFound)
    assert await guarded.admits(OPERATOR, request_) is None


async def test_what_is_ones_own_is_there(guarded: Stack) -> None:
    acme = await create_org(guarded.asker(OPERATOR), "acme")

    for request in (
        EnvironmentResolve(reference="acme/sums"),
        EnvironmentCheck(key=OWN_KEY, digest="d"),
        RunSubmit(spec=spec("acme", "acme/sums", OWN_KEY)),
    ):
        assert await guarded.admits(acme, request) is None


async def test_the_hub_is_asked_about_a_token_once_in_a_while_and_a_revoked_one_is_refused_soon(
    guarded: Stack,
) -> None:
    admin = await create_org(guarded.asker(OPERATOR), "acme")
    member = await create_token(guarded.asker(admin), "member")
    asker, before = guarded.asker(member), guarded.checks
    for _ in range(3):
        await asker.ask(RunList(org="acme"))
    assert guarded.checks == before + 1

    await revoke_token(guarded.asker(admin), member.split("_")[2])
    guarded.now += BELIEVED_S

    with pytest.raises(Refused, match="not known here, or was revoked"):
        await asker.ask(RunList(org="acme"))


async def test_our_services_ask_each_other_as_the_operator_and_nobody_else_may(guarded: Stack) -> None:
    held = EpisodeRenew(replica="s1", episodes="e1")
    admin = await create_org(guarded.asker(OPERATOR), "acme")

    assert await guarded.asker(OPERATOR).ask(held) == Done()
    with pytest.raises(Refused, match=r"episode\.renew wants the role operator"):
        await guarded.asker(admin).ask(held)
    assert guarded.checks == 1  # of the admin's token: what services say to each other needs no hub


LOCAL_TO_NONE = {"token.check", "environment.limits", "generate", "key.fetch"}
"""Of no organisation: what they tell is no secret; an adapter is named by a digest that only its organisation reads."""


@pytest.mark.parametrize("kind", REQUESTS, ids=lambda kind: kind.name)
def test_every_request_says_whose_things_it_is_about(kind: type[Request]) -> None:
    says = "org" in kind.__struct_fields__ or kind.orgs is not Request.orgs

    assert says or kind.role == "operator" or kind.name in LOCAL_TO_NONE


@pytest.mark.parametrize("kind", REQUESTS, ids=lambda kind: kind.name)
def test_a_request_that_only_looks_is_open_to_readers(kind: type[Request]) -> None:
    looks = kind.name.rpartition(".")[2] in ("list", "find", "resolve", "get", "versions", "sum", "export", "show")
    excepted: Any = {"token.list"}

    assert not looks or kind.role == "reader" or kind.name in excepted


def test_the_hub_is_never_told_a_token_only_its_digest() -> None:
    text, token = minted("acme", "admin", "laptop")

    assert text.rpartition("_")[2].encode() not in msgspec.msgpack.encode(OrgCreate(org="acme", token=token))


def test_an_operators_token_that_is_none_is_refused_unseen() -> None:
    with pytest.raises(ConfigError, match="FLASH_OPERATOR_TOKEN is not as it should be") as refused:
        ServiceSettings.from_env({"FLASH_OPERATOR_TOKEN": "hunter2"})

    assert "hunter2" not in str(refused.value)
    assert OPERATOR not in repr(ServiceSettings.from_env({"FLASH_OPERATOR_TOKEN": OPERATOR}))
