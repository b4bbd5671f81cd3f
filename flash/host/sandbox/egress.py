"""The way out of one host: an HTTP proxy on a unix socket, which is all the network that the host can see.

It resolves names itself and connects to the address that it has looked at, so that no name can change its meaning in
between; only where it goes through a proxy of the operator's, that one resolves them. CONNECT for everything, and
absolute requests for plain HTTP, one a connection.
"""

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from flash.host.sandbox.destinations import Barred, Chooses, split
from flash.host.sandbox.upstream import NONE, Upstream

CONNECTIONS = 64
BYTES = 1 << 30
"""For the whole life of a host, both ways."""
_PATIENCE_S = 10.0
_HEAD_BYTES = 64 << 10


@dataclass(frozen=True)
class Decision:
    """What became of one connection."""

    destination: str
    refused: str = ""
    """Why; empty: it was let through."""


@dataclass(frozen=True)
class _Asked:
    host: str
    port: int
    head: bytes
    """What the other side is sent first: nothing for a tunnel."""
    whole_head: bytes = b""
    """The same for a proxy."""


class Egress:
    """Open for as long as its host lives."""

    def __init__(
        self,
        chooses: Chooses,
        tell: Callable[[Decision], object],
        most_bytes: int,
        most_connections: int,
        upstream: Upstream,
    ) -> None:
        self._chooses, self._tell, self._upstream = chooses, tell, upstream
        self._connections, self._most_connections = 0, most_connections
        self._left_bytes, self._most_bytes = most_bytes, most_bytes
        self._server: asyncio.Server | None = None
        self._serving: set[asyncio.Task[None]] = set()

    @classmethod
    async def open(
        cls,
        path: Path,
        chooses: Chooses,
        *,
        uid: int | None,
        tell: Callable[[Decision], object] = lambda decision: None,
        most_bytes: int = BYTES,
        most_connections: int = CONNECTIONS,
        upstream: Upstream = NONE,
    ) -> Self:
        """Listen at `path`, for the host of this uid alone; None: for our own."""
        egress = cls(chooses, tell, most_bytes, most_connections, upstream)
        egress._server = await asyncio.start_unix_server(egress._accept, path, limit=_HEAD_BYTES)
        os.chmod(path, 0o600)
        if uid is not None:
            os.chown(path, uid, uid)
        return egress

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in list(self._serving):
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        self._connections += 1
        try:
            await self._serve(reader, writer)
        except (OSError, EOFError, asyncio.LimitOverrunError, asyncio.CancelledError):
            pass  # one side has gone, or we are to go
        finally:
            self._connections -= 1
            self._serving.discard(task)
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with asyncio.timeout(_PATIENCE_S):
            head = await reader.readuntil(b"\r\n\r\n")
        try:
            asked = _asked(head)
        except ValueError as error:
            await _refuse(writer, 400, str(error))
            return
        destination = f"{asked.host}:{asked.port}"
        try:
            ahead, behind = await self._connected(asked)
        except Barred as barred:
            self._tell(Decision(destination, str(barred)))
            await _refuse(writer, 403, str(barred))
            return
        except (OSError, TimeoutError) as error:
            self._tell(Decision(destination, f"{error or 'no answer'}"))
            await _refuse(writer, 502, f"{destination} cannot be reached")
            return
        self._tell(Decision(destination))
        with contextlib.closing(behind):
            if asked.head:
                proxy = self._upstream.towards(asked.host, tunnel=False)
                behind.write(proxy.asked(asked.whole_head) if proxy else asked.head)
            else:
                writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            async with asyncio.TaskGroup() as both:
                both.create_task(self._pump(reader, behind))
                both.create_task(self._pump(ahead, writer))

    async def _connected(self, asked: _Asked) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Raises Barred, OSError and TimeoutError."""
        if self._connections > self._most_connections:
            raise Barred(f"more than {self._most_connections} connections are open")
        if self._left_bytes <= 0:
            raise Barred(f"more than {self._most_bytes >> 20} MiB have gone through")
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(_PATIENCE_S):
            self._chooses(asked.host, asked.port, ["1.1.1.1"])  # before anybody is asked for names
            if proxy := self._upstream.towards(asked.host, tunnel=not asked.head):
                return await proxy.connected(asked.host, asked.port, tunnel=not asked.head)
            found = await loop.getaddrinfo(asked.host, asked.port, type=socket.SOCK_STREAM)
            address = self._chooses(asked.host, asked.port, [str(one[4][0]) for one in found])
            return await asyncio.open_connection(address, asked.port)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while self._left_bytes > 0 and (data := await reader.read(1 << 16)):
                self._left_bytes -= len(data)
                writer.write(data)
                await writer.drain()
            if writer.can_write_eof():
                writer.write_eof()


def _asked(head: bytes) -> _Asked:
    """Raises ValueError for what is no request of a proxy's."""
    line, _, fields = head.partition(b"\r\n")
    try:
        method, target, version = line.decode("ascii").split(" ")
    except ValueError:
        raise ValueError("this is no request") from None
    if method == "CONNECT":
        host, port = split(target)
        return _Asked(_plain(host), port or 443, b"")
    url = urlsplit(target)
    if url.scheme != "http" or not url.hostname:
        raise ValueError("a proxy is asked by CONNECT, or for http:// by the whole address")
    path = (url.path or "/") + (f"?{url.query}" if url.query else "")
    kept = [
        field
        for field in fields.split(b"\r\n")
        if field and field.split(b":")[0].strip().lower() not in (b"connection", b"proxy-connection", b"keep-alive")
    ]
    heads = [
        b"\r\n".join([f"{method} {asked} {version}".encode(), *kept, b"Connection: close"]) + b"\r\n\r\n"
        for asked in (path, target)
    ]
    return _Asked(_plain(url.hostname), url.port or 80, *heads)


def _plain(host: str) -> str:
    return host.lower().rstrip(".")


async def _refuse(writer: asyncio.StreamWriter, status: int, reason: str) -> None:
    """The reason stands in the status line as well: that is what most clients show."""
    body = f"{reason}\n".encode()
    shown = reason.encode("ascii", "replace")[:200].replace(b"\r", b" ").replace(b"\n", b" ")
    head = b"HTTP/1.1 %d %s\r\nContent-Type: text/plain\r\nContent-Length: %d\r\nConnection: close\r\n\r\n"
    with contextlib.suppress(OSError):
        writer.write(head % (status, shown, len(body)) + body)
        await writer.drain()
