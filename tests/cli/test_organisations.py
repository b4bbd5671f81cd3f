"""`flash login`, `whoami`, `org`, `token`, and which stack a command asks: cli/organisations.py, cli/contexts.py."""

import io
import json
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from cli.__main__ import main
from flash.access import Access
from flash.bus import Pool
from flash.bus.memory import MemoryBus
from flash.client.connection import token_of
from flash.client.tokens import minted
from flash.contracts.requests import RunList, RunListing
from flash.errors import ConfigError
from flash.records import MemoryRecords
from services.hub.organisations import Organisations

OPERATOR = "flash_local_operator_" + "s" * 40
FAR = "nats://flash.example:4333"


@dataclass
class Guarded:
    """A hub and a scheduler that want a token, wherever they are looked for."""

    operator_token: str = OPERATOR
    records: MemoryRecords = field(default_factory=MemoryRecords)
    urls: list[str | None] = field(default_factory=list)
    """Where each command went."""
    listed: list[str] = field(default_factory=list)
    """Whose runs were asked for."""

    async def connect(
        self,
        local: Callable[[], str | None],
        environment: Mapping[str, str] | None = None,
        *,
        token: str = "",
        name: str = "",
    ) -> MemoryBus:
        import os

        environment = os.environ if environment is None else environment
        self.urls.append(environment.get("FLASH_URL") or local())
        services = MemoryBus(token=self.operator_token)
        admit = Access(services, self.operator_token).admit
        organisations = Organisations(self.records, self.operator_token, now=lambda: 7.0)
        await services.answer("hub", organisations.answers(), admit)
        await services.answer("scheduler", {RunList: self._listing}, admit)
        return services.replica("cli:1", token_of(environment, token))

    async def _listing(self, request: RunList) -> RunListing:
        self.listed.append(request.org)
        return RunListing(runs=[])


@pytest.fixture(autouse=True)
def stack(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Guarded:
    found = Guarded()
    monkeypatch.setattr("cli.session.connect", found.connect)
    monkeypatch.setattr("cli.organisations.connect", found.connect)
    monkeypatch.setattr("cli.session.connection", lambda home: "nats://here")
    monkeypatch.setattr("cli.stack.connection", lambda home: "nats://here")
    monkeypatch.setenv("FLASH_HOME", str(tmp_path / "home"))
    for name in ("FLASH_URL", "FLASH_TOKEN", "FREESOLO_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    return found


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """What a command answers: its exit code, stdout and stderr."""

    def run(*words: str) -> tuple[int, str, str]:
        with capture_logs():
            code = main(words)
        out, err = capsys.readouterr()
        return code, out, err

    return run


@pytest.fixture
def acme(said: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch) -> str:
    """An admin's token of an organisation."""
    with monkeypatch.context() as patch:
        patch.setenv("FLASH_TOKEN", OPERATOR)
        code, out, _ = said("org", "create", "acme")
    assert code == 0
    return out.strip()


def typed(token: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{token}\n"))


Said = Callable[..., tuple[int, str, str]]


def test_a_login_is_kept_for_its_owner_alone_and_asked_from_then_on(
    said: Said, acme: str, stack: Guarded, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    typed(acme, monkeypatch)

    code, out, _ = said("login", FAR, "--json")

    told = json.loads(out)
    assert code == 0
    assert (told["org"], told["role"], told["stack"]) == ("acme", "admin", "flash.example:4333")
    file = tmp_path / "home" / "contexts.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert said("runs", "--json")[:2] == (0, "[]\n")
    assert (stack.urls[-1], stack.listed) == (FAR, ["acme"])
    assert json.loads(said("whoami", "--json")[1]) == told


def test_a_login_without_an_argument_takes_what_the_environment_says_and_keeps_it(
    said: Said, acme: str, stack: Guarded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that neither password nor token stands among the arguments: what compose prints."""
    with monkeypatch.context() as patch:
        patch.setenv("FLASH_URL", FAR)
        patch.setenv("FLASH_TOKEN", acme)
        code, _, _ = said("login")

    assert code == 0
    assert said("runs", "--json")[:2] == (0, "[]\n")
    assert (stack.urls[-1], stack.listed) == (FAR, ["acme"])


def test_a_token_that_is_refused_is_not_kept(said: Said, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    typed(minted("acme", "admin")[0], monkeypatch)

    code, _, err = said("login", FAR)

    assert code == 1
    assert "error: this token is not known here, or was revoked" in err
    assert not (tmp_path / "home" / "contexts.json").exists()


def test_what_is_no_token_is_not_even_asked_about(said: Said, stack: Guarded, monkeypatch: pytest.MonkeyPatch) -> None:
    typed("hunter2", monkeypatch)

    code, _, err = said("login", FAR)

    assert code == 1
    assert err == "error: that is no token: one reads flash_ORG_ID_SECRET, as it was printed\n"
    assert stack.urls == []


def test_one_may_go_from_one_stack_to_another_and_back(
    said: Said, acme: str, stack: Guarded, monkeypatch: pytest.MonkeyPatch
) -> None:
    typed(acme, monkeypatch)
    said("login", FAR, "--context", "far")
    typed(OPERATOR, monkeypatch)
    said("login", "--context", "near")

    said("runs")
    said("--context", "far", "runs")
    said("runs", "--context", "far")
    said("login", "--context", "far")
    said("runs")

    assert stack.listed == ["local", "acme", "acme", "acme"]
    assert stack.urls[-5:] == ["nats://here", FAR, FAR, FAR, FAR]
    code, _, err = said("runs", "--context", "fra")
    assert code == 1
    assert err == ("error: there is no context 'fra', but local, far, near: `flash login URL --context fra` makes it\n")


def test_the_environment_wins_and_a_kept_token_goes_to_no_other_stack(
    said: Said, acme: str, stack: Guarded, monkeypatch: pytest.MonkeyPatch
) -> None:
    typed(acme, monkeypatch)
    said("login", FAR, "--context", "far")
    monkeypatch.setenv("FLASH_URL", "nats://elsewhere")

    code, _, err = said("runs")

    assert stack.urls[-1] == "nats://elsewhere"
    assert "note: FLASH_URL of the environment over the context far" in err
    assert code == 1
    assert "this stack wants a token" in err
    monkeypatch.setenv("FLASH_TOKEN", OPERATOR)
    code, _, err = said("runs")
    assert (code, stack.listed) == (0, ["local"])
    assert "note: FLASH_URL and FLASH_TOKEN of the environment over the context far" in err


def test_the_original_products_variable_is_an_alias_where_it_holds_a_token_of_ours(
    said: Said, acme: str, stack: Guarded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FREESOLO_API_KEY", acme)
    assert said("runs")[0] == 0
    assert stack.listed == ["acme"]

    monkeypatch.setenv("FREESOLO_API_KEY", "fs-1234")
    assert "this stack wants a token" in said("runs")[2]


def test_a_variable_that_holds_no_token_is_refused_unseen() -> None:
    with pytest.raises(ConfigError, match="FLASH_TOKEN holds no token: one reads flash_ORG_ID_SECRET") as refused:
        token_of({"FLASH_TOKEN": "hunter2"})

    assert "hunter2" not in str(refused.value)


def test_an_admin_gives_tokens_looks_at_them_and_takes_them_back(
    said: Said, acme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLASH_TOKEN", acme)
    code, out, err = said("token", "create", "--role", "reader", "--name", "dashboard")
    token = out.strip()

    assert code == 0
    assert token.startswith("flash_acme_")
    assert "keep it now: nobody can show it again" in err
    assert token not in err
    listed = json.loads(said("token", "list", "--json")[1])
    assert [(t["role"], t["name"]) for t in listed] == [("admin", "first"), ("reader", "dashboard")]
    assert token.split("_")[2] == listed[1]["id"]
    monkeypatch.setenv("FLASH_TOKEN", token)
    assert "wants the role admin, but this token of acme has reader" in said("token", "list")[2]
    monkeypatch.setenv("FLASH_TOKEN", acme)
    assert said("token", "revoke", listed[1]["id"])[0] == 0
    monkeypatch.setenv("FLASH_TOKEN", token)
    assert "not known here, or was revoked" in said("runs")[2]


def test_the_operator_gives_tokens_of_any_organisation(said: Said, acme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLASH_TOKEN", OPERATOR)

    assert said("token", "create", "--org", "acme", "--role", "admin")[1].startswith("flash_acme_")
    assert len(json.loads(said("token", "list", "--org", "acme", "--json")[1])) == 2
    monkeypatch.setenv("FLASH_TOKEN", acme)
    code, _, err = said("org", "create", "beta")
    assert code == 1
    assert "org.create wants the role operator, but this token of acme has admin" in err


def test_whoami_on_an_open_stack_is_its_operator(said: Said, stack: Guarded) -> None:
    stack.operator_token = ""

    told = json.loads(said("whoami", "--json")[1])

    assert told == {
        "org": "local", "role": "operator", "token_id": "", "name": "", "stack": "this machine", "context": "local",
    }  # fmt: skip


def test_a_file_that_cannot_be_read_is_named(said: Said, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "contexts.json").write_text("{")

    code, _, err = said("runs")

    assert code == 1
    assert "contexts.json cannot be read" in err
    assert "move it away, and `flash login` makes it anew" in err


@pytest.mark.parametrize("org", ["Acme", "a_b", "-a", "", "a" * 41])
def test_a_name_that_cannot_be_an_organisations_is_refused_before_anybody_is_asked(
    said: Said, stack: Guarded, org: str
) -> None:
    for words in (("org", "create", "--", org), ("token", "list", f"--org={org or '.'}")):
        code, _, err = said(*words)

        assert code == 1
        assert "names no organisation: lower-case letters, digits and dashes do" in err
    assert stack.urls == []


def test_what_waits_is_shown_to_whoever_runs_the_stack(said: Said, acme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def pools(bus: MemoryBus) -> list[Pool]:
        return [Pool("groups-tiny", waiting=3, in_progress=0, asking=1)]

    monkeypatch.setattr(MemoryBus, "pools", pools)

    for token, names in ((OPERATOR, ["groups-tiny"]), (acme, [])):
        monkeypatch.setenv("FLASH_TOKEN", token)
        told = json.loads(said("ps", "--json")[1])
        assert [pool["name"] for pool in told["pools"]] == names
        assert {replica["service"] for replica in told["replicas"]} == {"hub", "scheduler"}
