"""The inside end of the way out: what is said to a port of the loopback device is carried to the proxy's unix socket.

It holds no secret and decides nothing. It listens where HTTP_PROXY points, and at the loopback ports that the
environment declares, for which it asks the proxy itself.
"""

import os
import socket
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NoReturn

from .confinement import die_with
from .frames import OUT_OF_REACH
from .polling import ERR, HUP, IN, OUT, poller

PORT = 3128
_BEHIND = 1 << 20
"""How much may wait for the slower side."""
_ESTABLISHED = b"\r\n\r\n"
_NOT_THEIRS = b"HTTP/1.1 403 what is built has no network\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


VARIABLES = {
    **dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"), f"http://127.0.0.1:{PORT}"),
    **dict.fromkeys(("http_proxy", "https_proxy", "all_proxy"), f"http://127.0.0.1:{PORT}"),
    "NO_PROXY": "127.0.0.1,localhost",
    "no_proxy": "127.0.0.1,localhost",
}


class Relay:
    """A process that listens from the moment that it is started."""

    def __init__(self, path: str, ports: Sequence[int], *, only: int = 0) -> None:
        """`only`: the process that may go this way; 0: whoever asks."""
        self._path, self._ports, self._only = path, ports, only
        self.pid = 0
        self.start()

    def start(self) -> None:
        """Raises OSError."""
        listening = [(_listening(PORT), b"")]
        for port in self._ports:
            with suppress(OSError):  # the proxy's own, or one that only root may have
                listening.append((_listening(port), f"CONNECT 127.0.0.1:{port} HTTP/1.1\r\n\r\n".encode()))
        parent = os.getpid()
        self.pid = os.fork()
        if self.pid:
            for ear, _ in listening:
                ear.close()
            return
        try:
            die_with(parent)
            _Carrier(self._path, listening, self._only).run()
        finally:
            os._exit(1)


def explain_refusals(network: Sequence[str]) -> None:
    """A place that cannot be reached is told with what to do about it. Nothing resolves names here."""
    resolve, connect = socket.getaddrinfo, socket.create_connection
    named = f"it names {', '.join(network)}" if network else "it names nothing"
    wanted = f"{OUT_OF_REACH}: an environment reaches what environment.network names, and {named}"

    def getaddrinfo(host: Any, port: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return resolve(host, port, *args, **kwargs)
        except socket.gaierror as error:
            place = host.decode(errors="replace") if isinstance(host, bytes) else host
            raise socket.gaierror(error.errno, f"{place} {wanted}") from None

    def create_connection(address: Any, *args: Any, **kwargs: Any) -> socket.socket:
        try:
            return connect(address, *args, **kwargs)
        except socket.gaierror:
            raise
        except OSError as error:
            if f"{address[0]}:{address[1]}" in network or address[1] == PORT or isinstance(error, TimeoutError):
                raise
            raise type(error)(error.errno, f"{address[0]}:{address[1]} {wanted}") from None

    socket.getaddrinfo, socket.create_connection = getaddrinfo, create_connection


class _End:
    """One side of a connection, and what it is still to be sent."""

    def __init__(self, of: socket.socket, asks: bytes = b"") -> None:
        of.setblocking(False)
        self.socket, self.to_send = of, bytearray(asks)
        self.skips = bool(asks)
        """Its first lines are the proxy's reply, which nobody has asked for."""
        self.received = bytearray()
        self.other: _End
        self.is_done = False


class _Carrier:
    def __init__(self, path: str, listening: Sequence[tuple[socket.socket, bytes]], only: int) -> None:
        self._path, self._poll, self._only = path, poller(), only
        self._ears = {ear.fileno(): (ear, asks) for ear, asks in listening}
        self._ends: dict[int, _End] = {}
        for number in self._ears:
            self._poll.register(number, IN)

    def run(self) -> NoReturn:
        while True:
            for number, event in self._poll.poll():
                if number in self._ears:
                    self._accept(*self._ears[number])
                elif end := self._ends.get(number):
                    self._carry(end, event)

    def _accept(self, ear: socket.socket, asks: bytes) -> None:
        with suppress(OSError):
            near, (_, port) = ear.accept()
            if self._only and not _is_of(self._only, port):
                near.sendall(_NOT_THEIRS)
                near.close()
                return
            far = socket.socket(socket.AF_UNIX)
            try:
                far.connect(self._path)
            except OSError:
                near.close()
                far.close()
                return
            one, other = _End(near), _End(far, asks)
            one.other, other.other = other, one
            for end in (one, other):
                self._ends[end.socket.fileno()] = end
                self._poll.register(end.socket.fileno(), 0)
            self._listen_anew(one)

    def _carry(self, end: _End, event: int) -> None:
        if event & (IN | HUP | ERR) and not end.is_done:
            self._read(end)
        for one in (end.other, end):
            self._write(one)
        if all(one.is_done and not one.other.to_send for one in (end, end.other)):
            self._close(end)
        else:
            self._listen_anew(end)

    def _read(self, end: _End) -> None:
        try:
            data = end.socket.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            end.is_done = True
        elif end.skips:
            end.received += data
            head, found, rest = end.received.partition(_ESTABLISHED)
            if found:
                end.skips = False
                if b" 200 " in head.split(b"\r\n")[0]:
                    end.other.to_send += rest
                else:
                    end.is_done = end.other.is_done = True
        else:
            end.other.to_send += data

    def _write(self, end: _End) -> None:
        if end.to_send:
            try:
                del end.to_send[: end.socket.send(end.to_send)]
            except BlockingIOError:
                return
            except OSError:
                end.to_send.clear()
                end.is_done = end.other.is_done = True
        if end.other.is_done and not end.to_send:
            with suppress(OSError):
                end.socket.shutdown(socket.SHUT_WR)

    def _listen_anew(self, end: _End) -> None:
        """Nothing is read from the faster side while the slower one is behind."""
        for one in (end, end.other):
            reads = IN if not one.is_done and len(one.other.to_send) < _BEHIND else 0
            self._poll.modify(one.socket.fileno(), reads | (OUT if one.to_send else 0))

    def _close(self, end: _End) -> None:
        for one in (end, end.other):
            del self._ends[one.socket.fileno()]
            self._poll.unregister(one.socket.fileno())
            one.socket.close()


def _is_of(pid: int, port: int) -> bool:
    """That process holds the connection that comes from this port of the loopback device."""
    with open("/proc/net/tcp") as table:
        inodes = [fields[9] for fields in map(str.split, table) if fields[1] == f"0100007F:{port:04X}"]
    held = set()
    for entry in os.listdir(f"/proc/{pid}/fd"):
        with suppress(FileNotFoundError):
            held.add(os.readlink(f"/proc/{pid}/fd/{entry}"))
    return any(f"socket:[{inode}]" in held for inode in inodes)


def _listening(port: int) -> socket.socket:
    ear = socket.socket()
    ear.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    ear.bind(("127.0.0.1", port))
    ear.listen(64)
    ear.setblocking(False)
    return ear
