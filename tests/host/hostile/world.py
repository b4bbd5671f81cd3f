"""The prizes, and who would notice that one was taken."""

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class World:
    """One for all attacks of a mode."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="flash-hostile-"))
        self.folder.chmod(0o755)
        self.secret, self.canary = (f"{what}-{secrets.token_hex(12)}" for what in ("secret", "canary"))
        self.leaves = f"{secrets.randbelow(10**6) + 10**6}.25"
        self.segment = secrets.randbelow(10**8) + 10**8
        """The key of a segment of shared memory that nobody has."""
        self.heard: list[str] = []
        self._sockets = [
            self._tcp(),
            self._udp(),
            self._unix(str(self.folder / "service.sock")),
            self._unix(f"\0{self.secret}"),
        ]
        (self.folder / "canary").write_text(self.canary)
        (self.folder / "other").mkdir()
        (self.folder / "other" / "environment.py").write_text(f"# {self.canary}")
        (self.folder / "open").mkdir()
        (self.folder / "open").chmod(0o777)
        (self.folder / "open" / "mine").touch()
        for path in self.folder.rglob("*"):
            if path.is_file():
                path.chmod(0o644)
        os.environ["FLASH_HOSTILE_SECRET"] = self.secret
        signal.signal(signal.SIGUSR1, lambda *_: self.heard.append("signal"))
        self.victim = self._victim()

    def told(self) -> dict[str, Any]:
        """What an attack is told."""
        return {
            "canary": str(self.folder / "canary"), "open_folder": str(self.folder / "open"),
            "other": str(self.folder / "other"), "secret": self.secret, "marker": self._marker,
            "victim": self.victim.pid, "service": os.getpid(), "leaves": self.leaves, "segment": self.segment,
            "tcp": self._sockets[0].getsockname()[1], "udp": self._sockets[1].getsockname()[1],
            "unix": str(self.folder / "service.sock"), "abstract": self.secret,
            "memory_bytes": 1 << 30, "host_bytes": 512 << 20, "disk_bytes": 160 << 20,
        }  # fmt: skip

    def harm(self) -> list[str]:
        """What has happened since somebody last asked, and should not have."""
        found = [*self.heard]
        self.heard.clear()
        if self.victim.poll() is not None:
            found.append("the victim is dead")
            self.victim = self._victim()
        if sorted(path.name for path in (self.folder / "open").iterdir()) != ["mine"]:
            found.append("somebody wrote where all may")
            for path in (self.folder / "open").iterdir():
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink()
            (self.folder / "open" / "mine").touch()
        if f" {self.segment} " in Path("/proc/sysvipc/shm").read_text():
            found.append("a segment of shared memory is left")
            subprocess.run(["ipcrm", "-M", str(self.segment)], check=True)
        return found + [f"{pid} is left" for pid in self.left()]

    def left(self) -> list[int]:
        """Processes that an attack has left behind."""
        found = []
        for entry in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError):
                if self.leaves.encode() in Path(f"/proc/{entry}/cmdline").read_bytes():
                    found.append(int(entry))
        return found

    def close(self) -> None:
        self.victim.kill()
        self.victim.wait()
        for one in self._sockets:
            one.close()
        del os.environ["FLASH_HOSTILE_SECRET"]
        signal.signal(signal.SIGUSR1, signal.SIG_DFL)
        shutil.rmtree(self.folder)

    @property
    def _marker(self) -> str:
        return self.canary.replace("canary", "marker")

    def _victim(self) -> subprocess.Popen[bytes]:
        code = "import time\nwhile True: time.sleep(60)"
        return subprocess.Popen([sys.executable, "-c", code, self._marker])

    def _tcp(self) -> socket.socket:
        ear = socket.create_server(("127.0.0.1", 0))
        self._hear(ear, "a connection")
        return ear

    def _unix(self, address: str) -> socket.socket:
        ear = socket.socket(socket.AF_UNIX)
        ear.bind(address)
        if not address.startswith("\0"):
            os.chmod(address, 0o777)
        ear.listen()
        self._hear(ear, "a connection by a unix socket")
        return ear

    def _udp(self) -> socket.socket:
        ear = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        ear.bind(("127.0.0.1", 0))

        def listen() -> None:
            with contextlib.suppress(OSError):
                while ear.recv(64):
                    self.heard.append("a datagram")

        threading.Thread(target=listen, daemon=True).start()
        return ear

    def _hear(self, ear: socket.socket, what: str) -> None:
        def listen() -> None:
            with contextlib.suppress(OSError):
                while True:
                    made, _ = ear.accept()
                    self.heard.append(what)
                    made.close()

        threading.Thread(target=listen, daemon=True).start()


@contextlib.contextmanager
def world() -> Iterator[World]:
    made = World()
    try:
        yield made
    finally:
        made.close()
