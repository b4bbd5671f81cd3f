"""Asking an OpenAI-compatible endpoint with the standard library: a few calls at once, retried, connections kept.

reply = await Client("http://127.0.0.1:8000/v1").chat.completions.create(model=..., messages=[...])
reply.choices[0].message.content
"""

import asyncio
import http.client
import json
import os
import random
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from envsdk.verifiers.errors import ModelError, OverlongPromptError

DEFAULT_URL = "https://api.openai.com/v1"

_AGAIN = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
_OVERLONG = ("context length", "maximum model length", "exceed the configured limit")
_SHOWN_CHARS = 300


@dataclass(frozen=True)
class ClientConfig:
    """Where a model answers."""

    api_base_url: str = ""
    """Empty: `OPENAI_BASE_URL`, else OpenAI's own."""
    api_key_var: str = "OPENAI_API_KEY"
    """The environment variable that holds the key."""
    timeout: float = 600.0
    """Seconds, for each attempt."""
    max_retries: int = 3
    extra_headers: Mapping[str, str] = field(default_factory=dict)
    client_type: str = "openai_chat_completions"


class Client:
    """Shaped like the openai package's AsyncOpenAI, as far as chat goes.

    At most `max_concurrent` calls are on their way at once. What may pass (429, 5xx, a broken connection, a timeout) is
    tried again up to `max_retries` times, half a second apart and then ever longer.
    """

    def __init__(
        self,
        base_url: str | None = None,
        api_key: str | None = None,
        *,
        timeout: float = 600.0,
        max_retries: int = 3,
        max_concurrent: int = 32,
        extra_headers: Mapping[str, str] | None = None,
    ) -> None:
        self.base_url = (base_url or os.environ.get("OPENAI_BASE_URL") or DEFAULT_URL).rstrip("/")
        self._key = api_key if api_key is not None else os.environ.get("OPENAI_API_KEY", "")
        self.timeout, self.max_retries, self.max_concurrent = timeout, max_retries, max_concurrent
        self._headers = dict(extra_headers or {})
        self._threads: ThreadPoolExecutor | None = None
        self._owner, self._kept = 0, threading.local()
        self.chat = SimpleNamespace(completions=SimpleNamespace(create=self._create))

    @classmethod
    def of(cls, config: ClientConfig, *, max_concurrent: int = 32) -> "Client":
        return cls(
            config.api_base_url or None,
            os.environ.get(config.api_key_var, ""),
            timeout=config.timeout,
            max_retries=config.max_retries,
            max_concurrent=max_concurrent,
            extra_headers=config.extra_headers,
        )

    async def close(self) -> None:
        if self._threads is not None:
            self._threads.shutdown(wait=False)
            self._threads = None

    async def _create(self, **body: Any) -> Any:
        """The reply as an object. Raises OverlongPromptError and ModelError."""
        if self._threads is None or self._owner != os.getpid():  # a fork has none of its parent's threads
            self._threads, self._owner = ThreadPoolExecutor(self.max_concurrent), os.getpid()
            self._kept = threading.local()
        extra = body.pop("extra_body", None) or {}
        data = json.dumps({**body, **extra}).encode()
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._reply, data)

    def _reply(self, data: bytes) -> Any:
        for attempt in range(self.max_retries + 1):
            last = attempt == self.max_retries
            try:
                status, answer = self._post(data)
            except (OSError, http.client.HTTPException) as error:
                self._drop()
                if last:
                    raise ModelError(f"{self.base_url} cannot be reached: {error or type(error).__name__}") from error
            else:
                if status < 300:
                    return _object(answer, self.base_url)
                if last or status not in _AGAIN:
                    raise _refusal(status, answer, self.base_url)
            time.sleep(0.5 * 2**attempt * random.uniform(0.75, 1.25))
        raise AssertionError("the last attempt returns or raises")

    def _post(self, data: bytes) -> tuple[int, bytes]:
        kept: http.client.HTTPConnection | None = getattr(self._kept, "connection", None)
        fresh = kept is None
        connection = kept or self._connected()
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self._key or 'none'}"}
        path = urlsplit(self.base_url).path.rstrip("/") + "/chat/completions"
        if getattr(connection, "proxied_plain", False):
            path = f"{self.base_url}/chat/completions"
        try:
            connection.request("POST", path, data, headers | self._headers)
            response = connection.getresponse()
            answer = response.read()
        except (OSError, http.client.HTTPException):
            self._drop()
            if fresh:
                raise
            return self._post(data)  # the server has closed a connection that lay idle
        return response.status, answer

    def _connected(self) -> http.client.HTTPConnection:
        place = urlsplit(self.base_url)
        host, secure = place.hostname or "", place.scheme == "https"
        kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
        proxy = None if proxy_bypass(host) else getproxies().get(place.scheme)
        if proxy:
            through = urlsplit(proxy if "//" in proxy else f"//{proxy}")
            connection = kind(through.hostname or "", through.port, timeout=self.timeout)
            if secure:
                connection.set_tunnel(host, place.port or 443)
            else:
                connection.proxied_plain = True  # type: ignore[attr-defined]
        else:
            connection = kind(host, place.port, timeout=self.timeout)
        self._kept.connection = connection
        return connection

    def _drop(self) -> None:
        if connection := getattr(self._kept, "connection", None):
            connection.close()
            self._kept.connection = None


def resolved(client: Any) -> Any:
    """A client of any kind as one with `chat.completions.create`: a URL, a ClientConfig, or such a client itself.

    Raises TypeError for anything else.
    """
    if isinstance(client, str):
        return Client(client)
    if isinstance(client, ClientConfig):
        return Client.of(client)
    if callable(getattr(getattr(getattr(client, "chat", None), "completions", None), "create", None)):
        return client
    if hasattr(client, "api_base_url"):
        return Client(client.api_base_url, os.environ.get(getattr(client, "api_key_var", ""), ""))
    raise TypeError(f"the client is a {type(client).__name__}, wanted a URL, a ClientConfig, or an OpenAI client")


def _object(answer: bytes, url: str) -> Any:
    try:
        reply = json.loads(answer, object_hook=lambda fields: SimpleNamespace(**fields))
        _ = reply.choices[0].message
    except (ValueError, AttributeError, IndexError, TypeError) as error:
        raise ModelError(f"{url} answered with {_shown(answer)}, wanted a chat completion") from error
    return reply


def _refusal(status: int, answer: bytes, url: str) -> ModelError | OverlongPromptError:
    told = answer.decode(errors="replace").lower()
    if 400 <= status < 500 and any(words in told for words in _OVERLONG):
        return OverlongPromptError(f"{url} refused the prompt as too long: {_shown(answer)}")
    return ModelError(f"{url} answered {status}: {_shown(answer)}")


def _shown(answer: bytes) -> str:
    return answer.decode(errors="replace").strip()[:_SHOWN_CHARS] or "nothing"
