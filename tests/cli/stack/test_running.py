"""What is true of a real stack: nats-server, the S3 server, and the services that need no model."""

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import psutil
import pytest

from cli.stack import Options, connection, down, up
from cli.stack.home import Home, Stack, Wiring, is_alive
from flash.bus.jetstream import connect
from flash.contracts.requests import RunList
from flash.errors import BusError, FlashError, NotFound, Refused
from flash.store import open_store
from flash.store.memory import MemoryStore

pytestmark = pytest.mark.slow


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Home]:
    """A stack without models, in the background."""
    home = Home(tmp_path / "home")
    began = time.monotonic()
    assert up(Options(home=home.folder, models=(), detach=True)) == 0
    assert time.monotonic() - began < 20
    try:
        yield home
    finally:
        down(home.folder)


def running(home: Home) -> Stack:
    stack = home.running()
    assert stack
    return stack


def processes_of(home: Home) -> list[str]:
    """Whatever still works in the home folder."""
    found = (process.info for process in psutil.process_iter(["pid", "cwd", "cmdline"]))  # type: ignore[no-untyped-call]
    return [str(info["cmdline"]) for info in found if str(info["cwd"] or "").startswith(str(home.folder))]


async def until_back(home: Home, name: str, pid: int) -> None:
    async with asyncio.timeout(15):
        while not any(p.name == name and p.standing == "ready" and p.pid != pid for p in running(home).parts):  # noqa: ASYNC110
            await asyncio.sleep(0.1)


async def test_a_stack_takes_requests_survives_the_death_of_its_parts_and_ends(stack: Home) -> None:
    url = connection(stack.folder)
    bus = await connect(url, MemoryStore(), "test")
    store = await open_store(running(stack).store_url)
    await store.put("a", b"kept")
    assert (await bus.ask(RunList(org="local"), timeout_s=5)).runs == []

    for name in ("nats", "store", "hub"):
        pid = next(part.pid for part in running(stack).parts if part.name == name)
        assert pid
        os.kill(pid, signal.SIGKILL)
        await until_back(stack, name, pid)

    assert connection(stack.folder) == url
    assert (await bus.ask(RunList(org="local"), timeout_s=15)).runs == []
    assert {"hub", "scheduler"} <= {replica.id for replica in await bus.replicas()}
    assert await store.get("a") == b"kept"
    await bus.close(0)
    assert await asyncio.to_thread(down, stack.folder)
    assert processes_of(stack) == []
    assert not down(stack.folder)


def test_a_second_up_says_that_one_is_running(stack: Home) -> None:
    with pytest.raises(Refused, match="already running"):
        up(Options(home=stack.folder, models=(), detach=True))
    assert stack.running()


def test_nothing_outlives_a_killed_supervisor_and_the_next_up_works(stack: Home) -> None:
    before = running(stack)
    os.kill(before.pid, signal.SIGKILL)
    until = time.monotonic() + 5
    while processes_of(stack) and time.monotonic() < until:
        time.sleep(0.05)
    assert not [part.name for part in before.parts if is_alive(part.pid, part.started_at)]
    with pytest.raises(NotFound, match="flash up"):
        connection(stack.folder)

    assert up(Options(home=stack.folder, models=(), detach=True)) == 0

    assert running(stack).nats_url == before.nats_url


async def test_passwords_are_not_to_be_seen_and_are_asked_for(stack: Home) -> None:
    state = running(stack)
    wiring = msgspec.json.decode((stack.folder / "wiring.json").read_bytes(), type=Wiring)
    words = [wiring.nats_password, wiring.s3_secret, wiring.s3_keys]

    lines = [" ".join(psutil.Process(part.pid).cmdline()) for part in state.parts if part.pid]  # type: ignore[no-untyped-call]
    assert not [line for line in lines if any(word in line for word in words)]
    files = [path for path in stack.folder.rglob("*") if path.is_file() and not path.is_symlink()]
    open_to_all = [path for path in files if path.stat().st_mode & 0o077]
    assert not [path for path in open_to_all if any(word.encode() in path.read_bytes() for word in words)]
    with pytest.raises(BusError):
        await connect(state.nats_url.replace(wiring.nats_password, "guess"), MemoryStore(), "thief", timeout_s=3)


def test_a_model_that_is_not_here_is_named_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(FlashError, match="flash models pull"):
        up(Options(home=tmp_path / "home", models=("smollm2-135m",)))
    assert not (tmp_path / "home").exists()
