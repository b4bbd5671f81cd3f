"""The operator's own proxy, where there is one: what goes out goes through it, and not past it."""

import asyncio
import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit
from urllib.request import proxy_bypass_environment  # type: ignore[attr-defined]

from flash.errors import ConfigError
from flash.host.sandbox.destinations import Barred


@dataclass(frozen=True)
class Proxy:
    """An HTTP proxy."""

    host: str
    port: int
    is_tls: bool = False
    login: str = field(default="", repr=False)
    """`user:password`."""

    @classmethod
    def of(cls, url: str) -> "Proxy":
        """Raises ConfigError for what is no HTTP proxy."""
        parts = urlsplit(url if "://" in url else f"http://{url}")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(
                f"a proxy of this machine is {parts.scheme}://{parts.hostname or ''}, but an install goes out through "
                "http:// and https:// proxies only: name such a one in HTTPS_PROXY and HTTP_PROXY"
            )
        login = f"{unquote(parts.username)}:{unquote(parts.password or '')}" if parts.username else ""
        tls = parts.scheme == "https"
        return cls(parts.hostname, parts.port or (443 if tls else 80), tls, login)

    async def connected(
        self, host: str, port: int, *, tunnel: bool
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """To the proxy, or through it. Raises OSError and Barred."""
        reader, writer = await asyncio.open_connection(self.host, self.port, ssl=self.is_tls or None)
        if tunnel:
            to = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
            writer.write(f"CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n{self._authorization}\r\n".encode())
            head = await reader.readuntil(b"\r\n\r\n")
            if head.split(b" ")[1:2] != [b"200"]:
                writer.close()
                said = head.split(b"\r\n")[0].decode("ascii", "replace")
                raise Barred(f"{to}: the proxy {self.host}:{self.port} said {said!r}")
        return reader, writer

    def asked(self, head: bytes) -> bytes:
        """The head of a plain request, as this proxy wants it."""
        line, _, fields = head.partition(b"\r\n")
        return line + b"\r\n" + self._authorization.encode() + fields

    @property
    def _authorization(self) -> str:
        return f"Proxy-Authorization: Basic {base64.b64encode(self.login.encode()).decode()}\r\n" if self.login else ""


@dataclass(frozen=True)
class Upstream:
    """Which proxy goes where."""

    tunnels: Proxy | None = None
    plain: Proxy | None = None
    spared: str = ""
    """`NO_PROXY`."""

    @classmethod
    def told(cls, variables: Mapping[str, str]) -> "Upstream":
        """By the usual variables; lower case goes first. Raises ConfigError."""

        def first(*names: str) -> str:
            return next((variables[name] for name in names if variables.get(name)), "")

        https = first("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")
        http = first("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY")
        return cls(Proxy.of(https) if https else None, Proxy.of(http) if http else None, first("no_proxy", "NO_PROXY"))

    def towards(self, host: str, *, tunnel: bool) -> Proxy | None:
        """None: nobody stands between."""
        if self.spared and proxy_bypass_environment(host, {"no": self.spared}):
            return None
        return self.tunnels if tunnel else self.plain


NONE = Upstream()
