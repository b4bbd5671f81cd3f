"""The way out of a host: the places that are named, and no others. Real hosts, real servers on the loopback device."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from flash.contracts.values import Example, Verdict
from flash.host import Host, HostSpec, Limits
from flash.host.sandbox import Decision, found

pytestmark = pytest.mark.skipif(not found().bwrap, reason="a way out wants walls, and bubblewrap does not work here")

REACHING = '''
import http.client, os, socket
from envsdk import EnvironmentSingleTurn, RewardResult

def direct(host, port):
    with socket.create_connection((host, port), timeout=5) as made:
        made.sendall(b"GET /direct HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n\\r\\n")
        return made.makefile("rb").read().decode()

def tunnel(target):
    made = socket.socket(socket.AF_UNIX)
    made.connect("/run/flash/egress.sock")
    made.sendall(f"CONNECT {target} HTTP/1.1\\r\\n\\r\\n".encode())
    return made.makefile("rb").readline().decode()

def fetch(url):
    """By the proxy, whatever may be reached without it."""
    made = http.client.HTTPConnection(os.environ["HTTP_PROXY"].removeprefix("http://"), timeout=5)
    made.request("GET", url)
    answer = made.getresponse()
    return f"{answer.status} {answer.reason} {answer.read().decode()}"

class Reaching(EnvironmentSingleTurn):
    def build_prompt_messages(self, example, prompt_text):
        return [{"role": "user", "content": example.input}]
    def score_response(self, example, text):
        return RewardResult(1.0, metadata={"said": eval(text)})

def load_environment():
    return Reaching()
'''
EXAMPLE = Example(index=0, id="example_000000", input="q", record={"input": "q"})
StartHost = Callable[..., Awaitable[Host]]


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[StartHost]:
    hosts: list[Host] = []

    async def begin(*network: str, tell: Callable[[Decision], Any] = lambda decision: None) -> Host:
        (tmp_path / "environment.py").write_text(REACHING)
        spec = HostSpec(folder=tmp_path, network=network, tell=tell, limits=Limits(slots=1))
        hosts.append(await Host.start(spec))
        return hosts[-1]

    yield begin
    for host in hosts:
        await host.close()


@asynccontextmanager
async def server() -> AsyncIterator[tuple[int, list[str]]]:
    """Its port, and the first lines of what it was asked."""
    asked: list[str] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        asked.append(head.split(b"\r\n")[0].decode())
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello")
        await writer.drain()
        writer.close()

    made = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        yield made.sockets[0].getsockname()[1], asked
    finally:
        made.close()


async def said(host: Host, code: str) -> str:
    [verdict] = await host.score(EXAMPLE, [code], deadline_s=20)
    return told(verdict)


def told(verdict: Verdict) -> str:
    return verdict.fault.message if verdict.fault else str(verdict.metadata["said"])


async def test_a_named_place_is_reached_at_its_own_port_and_by_the_proxy(start: StartHost) -> None:
    async with server() as (port, asked):
        host = await start(f"127.0.0.1:{port}")

        assert "hello" in await said(host, f"direct('127.0.0.1', {port})")
        assert "hello" in await said(host, f"direct('localhost', {port})")
        assert await said(host, f"fetch('http://127.0.0.1:{port}/judge?x=1')") == "200 OK hello"
        assert "200" in await said(host, f"tunnel('127.0.0.1:{port}')")

    assert asked == ["GET /direct HTTP/1.1"] * 2 + ["GET /judge?x=1 HTTP/1.1"]


async def test_another_place_is_refused_by_name_and_the_decision_is_told(start: StartHost) -> None:
    decisions: list[Decision] = []
    async with server() as (port, asked), server() as (other, unasked):
        host = await start(f"127.0.0.1:{port}", tell=decisions.append)

        assert "403" in await said(host, f"tunnel('127.0.0.1:{other}')")
        assert f"127.0.0.1:{other} is out of reach" in await said(host, f"direct('127.0.0.1', {other})")
        assert f"127.0.0.1:{other} is not in environment.network" in await said(
            host, f"fetch('http://127.0.0.1:{other}/')"
        )

    assert asked == unasked == []
    assert [decision.destination for decision in decisions if decision.refused] == [f"127.0.0.1:{other}"] * 2


async def test_a_name_that_leads_home_is_refused_whatever_it_is_called(
    start: StartHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with server() as (port, asked):
        host = await start(f"rebound.example:{port}")
        loop = asyncio.get_running_loop()
        resolve = loop.getaddrinfo

        async def to_us(name: Any, *args: Any, **kwargs: Any) -> Any:
            return await resolve("127.0.0.1" if name == "rebound.example" else name, *args, **kwargs)

        monkeypatch.setattr(loop, "getaddrinfo", to_us)

        assert "403" in await said(host, f"tunnel('rebound.example:{port}')")

    assert asked == []


async def test_the_operator_may_keep_everybody_from_what_is_not_public(
    start: StartHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLASH_EGRESS", "public")
    async with server() as (port, asked):
        host = await start(f"127.0.0.1:{port}")

        assert "403" in await said(host, f"tunnel('127.0.0.1:{port}')")

    assert asked == []


async def test_who_declares_nothing_reaches_nothing_and_the_fault_says_what_to_declare(start: StartHost) -> None:
    host = await start()
    async with server() as (port, asked):
        assert "out of reach" in await said(host, f"direct('127.0.0.1', {port})")
    found = await said(host, "direct('judge.example', 443)")

    assert asked == []
    assert "judge.example is out of reach: an environment reaches what environment.network names" in found


async def test_nonsense_said_to_the_proxy_is_refused_and_it_goes_on(start: StartHost) -> None:
    async with server() as (port, _):
        host = await start(f"127.0.0.1:{port}")

        for target in ("x", "127.0.0.1", f"[::1]:{port}", "127.0.0.1:99999", "a b c", ":" * 99):
            assert "200" not in await said(host, f"tunnel({target!r})")
        assert "200" in await said(host, f"tunnel('127.0.0.1:{port}')")
