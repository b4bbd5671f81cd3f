"""What compose.yaml mounts into its containers: the keys that are made once, and a bus that knows who may do what."""

import asyncio
import os
import re
import shlex
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from flash.bus.jetstream import connect, roles
from flash.bus.jetstream.logins import answer_logins
from flash.bus.server import find_binary, free_port
from flash.client import connect as connect_client
from flash.client.tokens import whose
from flash.config.settings import ServiceSettings
from flash.contracts.access import Caller
from flash.contracts.catalogue import SERVICES
from flash.errors import BusError
from flash.store.memory import MemoryStore
from services.hub.organisations import Organisations

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="a shell makes the keys")


ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"


def test_every_variable_of_compose_has_a_row_with_its_default() -> None:
    used = dict(re.findall(r"\$\{(\w+):-([^}]*)\}", (ROOT / "compose.yaml").read_text()))

    variables = (ROOT / "docs/operating.md").read_text().partition("## Variables")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \| `([^`]*)` \|", variables, re.MULTILINE)

    assert dict(rows) == used


def made(folder: Path, **variables: str) -> dict[str, str]:
    """What `keys` writes, by name."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    env = {"PATH": path, "SCORER_GROUP": str(os.getgid()), **variables}
    subprocess.run(["sh", DEPLOY / "keys.sh", folder], check=True, env=env)
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_keys_are_made_once_and_only_their_group_reads_them(tmp_path: Path) -> None:
    first = made(tmp_path)
    again = made(tmp_path, FLASH_ADDRESS="10.1.2.3:5222")

    secrets = {name: first[name] for name in ("services", "logins", "objects", "operator")}
    assert {len(secret) for secret in secrets.values()} == {64}
    assert len(set(secrets.values())) == 4
    assert secrets == {name: again[name] for name in secrets}
    assert "nats://10.1.2.3:5222'" in again["login"]
    assert first["nats.conf"] == again["nats.conf"]
    assert secrets["logins"] not in first["nats.conf"]
    modes = {path: path.stat().st_mode & 0o777 for path in tmp_path.rglob("*")}
    assert modes.pop(tmp_path / "scorer") == 0o750
    assert set(modes.values()) == {0o640}


def test_the_scorer_has_keys_of_its_own_and_no_service_has_another_s(tmp_path: Path) -> None:
    keys = made(tmp_path)
    text = (ROOT / "compose.yaml").read_text()

    parts = dict(re.findall(r"^  (\w+):\n((?:    .*\n|\n)+)", text.partition("\nservices:\n")[2], re.MULTILINE))
    named = {part: re.findall(r"FLASH_NATS_URL_FILE: /keys/(\S+)", body) for part, body in parts.items()}

    found = {part: keys[files[0]] for part, files in named.items() if files}
    assert {part: url.partition("//")[2].partition(":")[0] for part, url in found.items()} == {s: s for s in SERVICES}
    assert re.findall(r"_FILE: /keys/(\S+)", parts["scorer"]) == [
        f"scorer/{name}" for name in ("nats-url", "store-url", "operator-token")
    ]
    assert {name for name in keys if name.startswith("scorer/")} == {
        "scorer/nats-url", "scorer/store-url", "scorer/operator-token"
    }  # fmt: skip


def test_a_service_finds_its_settings_in_the_keys(tmp_path: Path) -> None:
    keys = made(tmp_path)

    settings = ServiceSettings.from_env(
        {
            "FLASH_NATS_URL_FILE": str(tmp_path / "nats-url-hub"),
            "FLASH_STORE_URL_FILE": str(tmp_path / "store-url"),
            "FLASH_OPERATOR_TOKEN_FILE": str(tmp_path / "operator-token"),
        }
    )

    assert settings.nats_url == f"nats://hub:{roles.password(keys['services'], 'hub')}@nats:4222"
    assert settings.store_url == f"s3://flash:{keys['objects']}@minio:9000/flash"
    assert settings.operator_token == f"flash_local_operator_{keys['operator']}"


@dataclass(frozen=True)
class Served:
    keys: dict[str, str]
    urls: dict[str, str]
    """Of each service."""
    operator: dict[str, str]
    """The variables of the login line."""


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    """A server with the configuration of compose.yaml, but for its ports and folders."""
    port = free_port()
    (tmp_path / "keys").mkdir()
    keys = made(tmp_path / "keys", FLASH_ADDRESS=f"127.0.0.1:{port}")
    text = (DEPLOY / "nats.conf").read_text()
    for said, here in (("0.0.0.0:4222", f"127.0.0.1:{port}"), ("127.0.0.1:8222", f"127.0.0.1:{free_port()}")):
        assert said in text
        text = text.replace(said, here)
    (tmp_path / "nats.conf").write_text(text.replace("store_dir: /data", f'store_dir: "{tmp_path}/data"'))
    server = await asyncio.create_subprocess_exec(
        find_binary(), "-c", str(tmp_path / "nats.conf"), "-l", str(tmp_path / "nats.log")
    )
    variables = dict(word.split("=", 1) for word in shlex.split(keys["login"])[:2])
    try:
        found = {service: keys[f"nats-url-{service}"] for service in SERVICES if service != "scorer"}
        urls = {service: url.replace("nats:4222", f"127.0.0.1:{port}") for service, url in found.items()}
        yield Served(keys, urls, variables)
    finally:
        server.terminate()
        await server.wait()


async def test_whoever_has_the_login_line_comes_in_and_nobody_else(served: Served) -> None:
    scheduler = await connect(served.urls["scheduler"], MemoryStore(), name="scheduler:1")
    services = await connect(served.urls["hub"], MemoryStore(), name="hub:1", updates_streams=False)
    organisations = Organisations(services.records("organisations"), served.keys["operator-token"], now=lambda: 7.0)
    await services.answer("hub", organisations.answers())
    await answer_logins(services.connection, served.keys["logins"], organisations.check)
    operator = await connect_client(environment=served.operator)
    try:
        assert await whose(operator, served.operator["FLASH_TOKEN"]) == Caller(org="local", role="operator")
        for nobody in ("", "flash_local_operator_" + "0" * 64):
            with pytest.raises(BusError, match="refuses us"):
                await connect_client(environment={**served.operator, "FLASH_TOKEN": nobody})
    finally:
        await operator.close(0)
        await services.close(0)
        await scheduler.close(0)
