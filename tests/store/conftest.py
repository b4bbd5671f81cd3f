"""A real S3 server for the whole session, and each kind of store behind one fixture."""

import os
import subprocess
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from flash.store import Store, open_store
from flash.store.server import PORTS, ServerPlan, free_ports, plan


@dataclass
class Weed:
    """An S3 server that can be killed and started again with its files."""

    plan: ServerPlan
    log: Path
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.plan.argv, env=os.environ | self.plan.env, stdout=log, stderr=log)

    def wait(self) -> None:
        until = time.monotonic() + 30
        while not self._answers():
            assert time.monotonic() < until, self.log.read_text()[-2000:]
            time.sleep(0.1)

    def kill(self) -> None:
        assert self.process
        self.process.kill()
        self.process.wait()
        for socket in self.plan.sockets:
            socket.unlink(missing_ok=True)

    def url(self, bucket: str) -> str:
        return f"{self.plan.store_url.rpartition('/')[0]}/{bucket}"

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(self.plan.health_url, timeout=1) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False


def new_weed(folder: Path) -> Weed:
    return Weed(plan(folder, ports=free_ports(PORTS), secret="s" * 20, keys="k" * 20), folder / "weed.log")


@pytest.fixture(scope="session")
def weed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Weed]:
    server = new_weed(tmp_path_factory.mktemp("weed"))
    server.start()
    try:
        server.wait()
        yield server
    finally:
        server.kill()


@pytest.fixture(params=["memory", "files", "s3"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    if request.param == "memory":
        yield await open_store("memory:")
    elif request.param == "files":
        yield await open_store(f"file://{tmp_path}/store")
    else:
        yield await open_store(request.getfixturevalue("weed").url(f"bucket-{uuid.uuid4().hex[:12]}"))
