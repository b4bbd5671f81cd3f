"""What is built as a requirement set is installed may do no more than be built. Real installers in real walls."""

import ast
import asyncio
import os
import secrets
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flash.host import InstallFailed, RequirementSets
from flash.host.installing import Allowance
from flash.host.sandbox import NONE, Layers, found
from flash.host.sandbox.layers import best
from tests.wheels import source_distribution, wheel

pytestmark = pytest.mark.skipif(sys.platform != "linux" or not best(found()), reason="there are no walls here")

LANDLOCK = replace(found(), bwrap="")
WALLS = [
    pytest.param(layers, id=layers.walls, marks=pytest.mark.slow if layers.walls != "bwrap" else ())
    for layers in (best(found()), best(LANDLOCK))
    if layers is not None
]
SMALL = Allowance(memory_bytes=512 << 20, disk_bytes=48 << 20, processes=64)


class World:
    """The prizes, and what an install is told of them."""

    def __init__(self, folder: Path) -> None:
        self.secret = f"canary-{secrets.token_hex(8)}"
        self.leaves = f"{secrets.randbelow(10**6) + 10**6}.25"
        self.folder = folder / "world"
        self.folder.mkdir()
        (self.folder / "secret").write_text(self.secret)
        (self.folder / "open").mkdir()
        (self.folder / "open").chmod(0o777)
        self.heard: list[str] = []
        self.tcp = socket.create_server(("127.0.0.1", 0))
        self.unix = socket.socket(socket.AF_UNIX)
        self.unix.bind(str(self.folder / "socket"))
        self.unix.listen()
        os.chmod(self.folder / "socket", 0o777)
        for ear in (self.tcp, self.unix):
            threading.Thread(target=self._listen, args=(ear,), daemon=True).start()

    def build(self, index: Path, body: str) -> None:
        """`greeting`, whose build does this. It knows the world."""
        known: dict[str, Any] = {"FOLDER": str(self.folder), "PORT": self.tcp.getsockname()[1], "LEAVES": self.leaves}
        known |= {"SERVICE": os.getpid(), "SERVICE_UID": os.getuid()}
        lines = "".join(f"    {line}\n" for line in body.strip().splitlines())
        text = "import os, socket, subprocess, sys, time\n" + "".join(f"{k} = {v!r}\n" for k, v in known.items())
        source_distribution(index, "greeting", "1.0", f"{text}\ndef do(folder, told):\n{lines}")

    def left(self) -> list[int]:
        """Processes that stayed."""
        marked = self.leaves.encode()
        return [
            int(entry) for entry in filter(str.isdigit, os.listdir("/proc")) if marked in _command_line(entry)
        ]  # fmt: skip

    def _listen(self, ear: socket.socket) -> None:
        try:
            while True:
                made, _ = ear.accept()
                self.heard.append("a connection")
                made.close()
        except OSError:
            return


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    made = World(tmp_path)
    monkeypatch.setenv("FLASH_SECRET", made.secret)
    with closing(made.tcp), closing(made.unix):
        yield made


def made(index: Path) -> Path:
    """`greeting`, which has nothing to be built."""
    wheel(index, "greeting", "1.0")
    [file] = index.iterdir()
    return file


def _command_line(pid: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def told(folder: Path | None) -> dict[str, Any]:
    assert folder is not None
    return dict(ast.literal_eval((folder / "greeting.py").read_text().partition("TOLD = ")[2]))


def sets(tmp_path: Path, layers: Layers, allowance: Allowance = SMALL) -> RequirementSets:
    return RequirementSets(tmp_path / "sets", timeout_s=60, builds=True, allowance=allowance, layers=layers)


READING = """
places = {
    "a file of ours": FOLDER + "/secret", "our environment": "/proc/%d/environ" % SERVICE,
    "a parent's": "/proc/%d/environ" % os.getppid(), "passwords": "/etc/shadow",
}
for what, place in places.items():
    try:
        with open(place, "rb") as file:
            told[what] = file.read(4096)
    except OSError as error:
        told[what] = type(error).__name__
told["variables"] = sorted(os.environ)
told["uid"] = os.getuid()
"""


@pytest.mark.parametrize("layers", WALLS)
async def test_a_build_reads_no_file_and_no_environment_of_ours(
    layers: Layers, world: World, index: Path, tmp_path: Path
) -> None:
    world.build(index, READING)

    found = told(await sets(tmp_path, layers).folder(["greeting"]))

    assert "raised" not in found
    assert world.secret not in str(found)
    assert {found[what] for what in ("a file of ours", "passwords")} <= {"FileNotFoundError", "PermissionError"}
    assert "FLASH_SECRET" not in found["variables"]
    if layers.second_uid and layers.walls == "bwrap":
        assert found["uid"] not in (0, os.getuid())


WRITING = """
for place in (FOLDER + "/open/mine", "/tmp/../" + FOLDER + "/open/too", os.path.expanduser("~/../../sibling"),
              sys.prefix + "/lib/mine", "/dev/shm/../../etc/mine"):
    try:
        with open(place, "w") as file:
            file.write("mine")
        told[place] = "written"
    except OSError as error:
        told[place] = type(error).__name__
os.link("/etc/hostname", folder + "/link") if os.path.exists("/etc/hostname") else None
"""


@pytest.mark.parametrize("layers", WALLS)
async def test_a_build_writes_nowhere_but_where_it_is_built(
    layers: Layers, world: World, index: Path, tmp_path: Path
) -> None:
    world.build(index, WRITING)

    found = told(await sets(tmp_path, layers).folder(["greeting"]))

    assert list((world.folder / "open").iterdir()) == []
    assert "sibling" not in str(list((tmp_path / "sets").iterdir()))
    assert "written" not in [what for place, what in found.items() if not place.startswith("/tmp")]


CONNECTING = """
for what, family, place in (("tcp", socket.AF_INET, ("127.0.0.1", PORT)), ("unix", socket.AF_UNIX, FOLDER + "/socket")):
    try:
        with socket.socket(family) as made:
            made.settimeout(2)
            made.connect(place)
        told[what] = "connected"
    except OSError as error:
        told[what] = type(error).__name__
if proxy := os.environ.get("HTTPS_PROXY"):
    for what, target in {"by the proxy": "127.0.0.1:%d" % PORT, "clouds": "169.254.169.254:80"}.items():
        with socket.create_connection(("127.0.0.1", int(proxy.rpartition(":")[2])), timeout=5) as made:
            made.sendall(b"CONNECT " + target.encode() + b" HTTP/1.1\\r\\n\\r\\n")
            told[what] = made.recv(12).decode()
"""


@pytest.mark.parametrize("layers", WALLS)
async def test_a_build_reaches_no_port_and_no_socket_of_ours(
    layers: Layers, world: World, index: Path, tmp_path: Path
) -> None:
    world.build(index, CONNECTING)

    found = told(await sets(tmp_path, layers).folder(["greeting"]))

    assert "raised" not in found
    assert world.heard == []
    assert found["tcp"] != "connected"
    assert found["unix"] != "connected"
    if layers.walls == "bwrap":
        assert (found["by the proxy"], found["clouds"]) == ("HTTP/1.1 403", "HTTP/1.1 403")


DAEMON = """
for _ in range(3):
    if os.fork() == 0:
        os.setsid()
        os.closerange(0, 64)  # whoever installs waits for what is printed
        if os.fork() == 0:
            os.execvp("sleep", ["sleep", LEAVES])
        os._exit(0)
    os.wait()
try:
    os.kill(os.getppid() if os.getppid() > 1 else SERVICE, 0)
except OSError as error:
    told["signal"] = type(error).__name__
"""


@pytest.mark.parametrize("layers", [*WALLS, pytest.param(NONE, id="none")])
async def test_a_daemon_that_a_build_has_left_ends_with_the_install(
    layers: Layers, world: World, index: Path, tmp_path: Path
) -> None:
    world.build(index, DAEMON)

    assert await sets(tmp_path, layers).folder(["greeting"]) is not None

    assert world.left() == []


@pytest.mark.slow
@pytest.mark.parametrize("layers", WALLS)
async def test_a_fork_bomb_ends_with_its_install_which_is_refused_a_process_at_last(
    layers: Layers, world: World, index: Path, tmp_path: Path
) -> None:
    world.build(
        index,
        "for _ in range(400):\n    if os.fork() == 0:\n        os.closerange(0, 64)\n"
        "        os.execvp('sleep', ['sleep', LEAVES])",
    )

    with pytest.raises(InstallFailed) as failed:
        await sets(tmp_path, layers).folder(["greeting"])

    assert "Resource temporarily unavailable" in failed.value.fault.traceback
    assert world.left() == []


@pytest.mark.slow
@pytest.mark.parametrize("layers", WALLS)
async def test_who_fills_the_disk_is_stopped_and_it_is_said_why(
    layers: Layers, world: World, index: Path, tmp_path: Path
) -> None:
    world.build(
        index,
        "for name in 'abcdefgh':\n    with open(folder + '/' + name, 'wb') as file:\n"
        "        file.write(os.urandom(16 << 20))\ntime.sleep(50)",
    )

    with pytest.raises(InstallFailed) as failed:
        await sets(tmp_path, layers).folder(["greeting"])

    assert "[greeting] cannot be installed: more than 48 MiB were written" in str(failed.value)
    assert [path.name for path in (tmp_path / "sets").iterdir() if path.suffix != ".lock"] == [".cache"]
    wheel(index, "politeness", "1.0")
    assert await sets(tmp_path, layers).folder(["politeness"]) is not None, "the next install is none the worse"


@pytest.mark.slow
@pytest.mark.parametrize("layers", WALLS)
async def test_who_takes_all_memory_is_stopped(layers: Layers, world: World, index: Path, tmp_path: Path) -> None:
    world.build(index, "kept = [bytearray(os.urandom(1 << 20)) for _ in range(900)]\ntime.sleep(50)")

    with pytest.raises(InstallFailed) as failed:
        await sets(tmp_path, layers).folder(["greeting"])

    assert "more than 512 MiB of memory together" in f"{failed.value}\n{failed.value.fault.traceback}"


UNSOUND = {
    "a pipe": "os.mkfifo(target + '/greeting-pipe')",
    "a folder that is deep": "os.chdir(target)\nfor _ in range(900):\n    os.mkdir('deeper')\n    os.chdir('deeper')",
}


@pytest.mark.slow
@pytest.mark.parametrize("what", UNSOUND)
async def test_what_can_be_no_set_is_refused_and_leaves_nothing(
    what: str, world: World, index: Path, tmp_path: Path
) -> None:
    finding = "target = os.path.abspath(os.path.expanduser('~/../set'))\n"
    world.build(index, finding + UNSOUND[what])

    with pytest.raises(InstallFailed, match=r"neither a file nor a folder|File name too long|cannot be counted"):
        await RequirementSets(tmp_path / "sets", timeout_s=60, builds=True).folder(["greeting"])

    assert [path.name for path in (tmp_path / "sets").iterdir() if path.suffix != ".lock"] == [".cache"]


async def test_a_set_that_was_swapped_for_a_link_or_closed_harms_nobody(
    world: World, index: Path, tmp_path: Path
) -> None:
    swapping = (
        "target = os.path.abspath(os.path.expanduser('~/../set'))\n"
        "try:\n    os.rename(target, target + '-gone'); os.symlink(FOLDER, target)\n"
        "except OSError as error:\n    told['swapped'] = type(error).__name__\n"
        "os.symlink(FOLDER, target + '/link')\nos.mkdir(target + '/closed')\n"
        "if os.getuid() != SERVICE_UID: os.chmod(target + '/closed', 0)  # else nobody could count what is in it\n"
        "open(target + '/program', 'w').close(); os.chmod(target + '/program', 0o6777)"
    )
    world.build(index, swapping)
    before = world.folder.stat()

    folder = await RequirementSets(tmp_path / "sets", timeout_s=60, builds=True).folder(["greeting"])

    assert folder is not None
    assert "swapped" in told(folder)
    assert (world.folder.stat().st_mode, world.folder.stat().st_uid) == (before.st_mode, before.st_uid)
    assert (folder / "program").stat().st_mode & 0o7777 == 0o555
    assert (folder / "program").stat().st_uid == os.getuid()
    assert (folder / "closed").stat().st_mode & 0o7777 == 0o555


async def test_what_a_build_does_to_its_cache_reaches_no_other_set(world: World, index: Path, tmp_path: Path) -> None:
    """The cache of downloads is for whoever runs nobody's code."""
    wheel(index, "politeness", "1.0")
    wheel(index, "rudeness", "1.0", {"politeness.py": "VERSION = 'poisoned'\n"})
    poison = (
        "for place, _, files in os.walk(os.environ.get('UV_CACHE_DIR', '/')):\n    for name in files:\n"
        "        if name.endswith('politeness.py'):\n            told['found'] = place\n"
    )
    both = RequirementSets(tmp_path / "sets", timeout_s=60, builds=True)
    await both.folder(["politeness"])
    world.build(index, poison)

    assert told(await both.folder(["greeting"])) == {}


def test_an_install_whose_asker_is_killed_leaves_no_process(world: World, index: Path, tmp_path: Path) -> None:
    world.build(index, "subprocess.Popen(['sleep', LEAVES], start_new_session=True)\ntime.sleep(100)")
    code = (
        "import asyncio, sys\nfrom pathlib import Path\nfrom flash.host import RequirementSets\n"
        "asyncio.run(RequirementSets(Path(sys.argv[1]), builds=True).folder(['greeting']))\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "sets")], cwd=Path.cwd()) as asking:
        _until(lambda: bool(world.left()))
        asking.send_signal(signal.SIGKILL)
        asking.wait()

    _until(lambda: not world.left())


def _until(is_so: Callable[[], bool]) -> None:
    give_up = time.monotonic() + 30
    while not is_so():
        assert time.monotonic() < give_up
        time.sleep(0.05)


@pytest.mark.parametrize("name", ["file index", "find-links in uv.toml", "cert in a closed folder"])
async def test_what_the_operator_has_named_is_found_within_the_walls(
    name: str, index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.delenv("PIP_NO_INDEX")
    file = made(index)
    if name == "file index":
        (tmp_path / "simple" / "greeting").mkdir(parents=True)
        page = f'<a href="../../index/{file.name}">{file.name}</a>'
        (tmp_path / "simple" / "greeting" / "index.html").write_text(f"<!DOCTYPE html><html><body>{page}</body></html>")
        monkeypatch.setenv("PIP_INDEX_URL", (tmp_path / "simple").as_uri())
    elif name == "find-links in uv.toml":
        (tmp_path / "uv.toml").write_text(f'no-index = true\nfind-links = ["{index}"]\n')
        monkeypatch.setenv("UV_CONFIG_FILE", str(tmp_path / "uv.toml"))
    else:
        monkeypatch.setenv("PIP_NO_INDEX", "1")
        monkeypatch.setenv("PIP_FIND_LINKS", str(index))
        (tmp_path / "closed").mkdir(mode=0o700)
        shutil.copy(ssl.get_default_verify_paths().openssl_cafile, tmp_path / "closed" / "ca.pem")
        (tmp_path / "closed" / "ca.pem").chmod(0o600)
        monkeypatch.setenv("PIP_CERT", str(tmp_path / "closed" / "ca.pem"))

    assert await RequirementSets(tmp_path / "sets", timeout_s=60, builds=True).folder(["greeting"])


@asynccontextmanager
async def package_index(folder: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[int, list[str]]]:
    """Its port, and what it was asked: first lines, each with whether a password came along."""
    asked: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        line = head.split("\r\n")[0]
        asked.append(f"{line} {'with' if 'authorization' in head.lower() else 'without'} a password")
        [file] = [file for file in os.listdir(folder) if file.startswith("greeting")]
        page = f'<!DOCTYPE html><html><body><a href="/{file}">{file}</a></body></html>'.encode()
        named = (folder / file).read_bytes() if file in line else page
        kind = b"application/octet-stream" if file in line else b"text/html"
        lines = b"HTTP/1.1 200 OK\r\nContent-Type: %s\r\nContent-Length: %d\r\nConnection: close\r\n\r\n"
        writer.write(lines % (kind, len(named)) + (b"" if line.startswith("HEAD") else named))
        await writer.drain()
        writer.close()

    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.delenv("PIP_NO_INDEX")
    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1], asked


async def test_an_index_on_this_machine_and_the_operators_proxy_are_reached(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By their names, from within a namespace that has neither."""
    wheel(index, "greeting", "1.0")
    async with package_index(index, monkeypatch) as (port, asked):
        monkeypatch.setenv("PIP_INDEX_URL", f"http://localhost:{port}/simple")
        assert await RequirementSets(tmp_path / "sets", timeout_s=60).folder(["greeting"])
        assert asked[0].startswith("GET /simple/greeting/ ")

        asked.clear()
        monkeypatch.setenv("PIP_INDEX_URL", "http://packages.example/simple")
        monkeypatch.setenv("HTTP_PROXY", f"http://me:word@127.0.0.1:{port}")
        monkeypatch.setenv("NO_PROXY", "localhost")
        assert await RequirementSets(tmp_path / "others", timeout_s=60).folder(["greeting"])
        assert asked[0].startswith("GET http://packages.example/simple/greeting/ ")
        assert all(line.endswith("with a password") for line in asked)


GOING_OUT = """
proxy = int(os.environ["HTTP_PROXY"].rpartition(":")[2])
asked = {"by a tunnel": b"CONNECT localhost:%d HTTP/1.1", "plainly": b"GET http://localhost:%d/from-the-build HTTP/1.1"}
for what, line in asked.items():
    with socket.create_connection(("127.0.0.1", proxy), timeout=5) as made:
        made.sendall(line % int(os.environ["UV_DEFAULT_INDEX"].split(":")[2].split("/")[0]) + b"\\r\\n\\r\\n")
        told[what] = made.recv(12).decode()
try:
    socket.socket(socket.AF_UNIX).connect("/run/flash/egress.sock")
    told["past the relay"] = "connected"
except OSError as error:
    told["past the relay"] = type(error).__name__
"""


@pytest.mark.skipif(not found().with_proc, reason="who connects is seen in /proc")
async def test_the_network_is_the_installers_and_not_of_what_it_builds(
    world: World, index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.build(index, GOING_OUT)
    async with package_index(index, monkeypatch) as (port, asked):
        monkeypatch.setenv("PIP_INDEX_URL", f"http://localhost:{port}/simple")
        folder = await RequirementSets(tmp_path / "sets", timeout_s=60, builds=True).folder(["greeting"])

    assert told(folder) == {
        "by a tunnel": "HTTP/1.1 403", "plainly": "HTTP/1.1 403", "past the relay": "PermissionError",
    }  # fmt: skip
    assert any("greeting-1.0.tar.gz" in line for line in asked), "the installer itself was there"
    assert not any("from-the-build" in line for line in asked)
