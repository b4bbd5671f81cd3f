"""An OpenAI-compatible endpoint: chat completions over kept-alive connections, one for each question in flight.

HTTP/1.1 by hand: with the usual clients, asking costs more than all the rest of an evaluation, and more so the more
questions are in flight (`bench/eval.py`). A body ends by its length, in chunks, or with the connection.
"""

import asyncio
import contextlib
import random
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import msgspec

from cli import toolcalls
from flash.contracts.values import Message
from flash.errors import ConfigError, FlashError

TIMEOUT_S = 600.0
"""How long an answer may take."""
CONNECT_S = 30.0
RETRIES = 5
"""How often a question is asked again that the server was too busy for, or that was lost on the way."""
PAUSE_S, LONGEST_PAUSE_S = 0.5, 60.0
"""Before the first time it is asked again, doubled each time."""
IDLE_S = 4.0
"""An idle connection is not used after this: servers hang up after 5 s or later."""

_BUSY = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
_HOPELESS = frozenset({401, 403, 404, 405})
_LARGEST_HEAD = 64 << 10
_LARGEST_BODY = 64 << 20


class EndpointError(FlashError):
    """The endpoint cannot be used."""


class NoAnswer(FlashError):
    """The endpoint did not answer this question; it may answer others."""


@dataclass(frozen=True)
class Answer:
    """What the model said."""

    text: str
    """Its calls of tools included, in words."""
    reasoning: str = ""
    """Where the server tells it apart from the text."""
    finish_reason: str = "stop"
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Message(msgspec.Struct):
    content: str | list[dict[str, Any]] | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[dict[str, Any]] | None = None


class _Choice(msgspec.Struct):
    message: _Message
    finish_reason: str | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Completion(msgspec.Struct):
    choices: list[_Choice]
    usage: _Usage | None = None


class _Model(msgspec.Struct):
    id: str


class _Models(msgspec.Struct):
    data: list[_Model] = []


_encode = msgspec.json.Encoder().encode
_decode_completion = msgspec.json.Decoder(_Completion).decode


class Endpoint:
    """Questions to one server. Not more connections than questions in flight, and no fewer."""

    def __init__(
        self,
        url: str,
        *,
        api_key: str = "",
        timeout_s: float = TIMEOUT_S,
        retries: int = RETRIES,
        pause_s: float = PAUSE_S,
    ) -> None:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(f"--url is {url!r}, but http://HOST:PORT/v1 or https://HOST/v1 is wanted")
        self.url = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path.rstrip('/')}"
        self._host, self._port = parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)
        self._path = parts.path.rstrip("/").removesuffix("/chat/completions")
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._timeout_s, self._retries, self._pause_s = timeout_s, retries, pause_s
        self._idle: list[_Connection] = []
        self._limit_name = "max_tokens"
        key = f"authorization: Bearer {api_key}\r\n" if api_key else ""
        if any(char in api_key for char in "\r\n"):
            raise ConfigError("the API key holds a line break: look at the variable it comes from")
        self._head = (
            f"host: {parts.netloc.rpartition('@')[2]}\r\nuser-agent: flash\r\naccept: application/json\r\n{key}"
        )

    async def models(self) -> list[str]:
        """The models it serves; none where it does not say."""
        try:
            return [model.id for model in msgspec.json.decode(await self._asked("GET", "/models"), type=_Models).data]
        except (NoAnswer, msgspec.DecodeError):
            return []

    async def complete(self, model: str, messages: Sequence[Message], sampling: Mapping[str, Any]) -> Answer:
        """Raises NoAnswer when this question has none, and EndpointError when no question would have one."""
        try:
            return await self._complete(model, messages, sampling)
        except NoAnswer as error:
            # Newer models know the limit by another name only.
            if self._limit_name == "max_tokens" and "max_completion_tokens" in str(error):
                self._limit_name = "max_completion_tokens"
                return await self._complete(model, messages, sampling)
            raise

    async def close(self) -> None:
        for connection in self._idle:
            connection.close()
        self._idle.clear()
        if self._tls:
            await asyncio.sleep(0)  # lets the closing be said

    async def _complete(self, model: str, messages: Sequence[Message], sampling: Mapping[str, Any]) -> Answer:
        body = {"model": model, **toolcalls.asked(messages), **sampling}
        if (limit := body.pop("max_tokens", None)) is not None:
            body[self._limit_name] = limit
        found = await self._asked("POST", "/chat/completions", _encode(body))
        try:
            completion = _decode_completion(found)
            choice = completion.choices[0]
        except (msgspec.DecodeError, IndexError) as error:
            raise NoAnswer(f"{self.url} gave no chat completion: {error}: {_shown(found)}") from error
        content, usage = choice.message.content, completion.usage or _Usage()
        if isinstance(content, list):
            content = "".join(str(part.get("text", "")) for part in content if part.get("type") == "text")
        return Answer(
            text=toolcalls.said(content or "", choice.message.tool_calls),
            reasoning=choice.message.reasoning_content or choice.message.reasoning or "",
            finish_reason=choice.finish_reason or "stop",
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens,
        )

    async def _asked(self, method: str, path: str, body: bytes = b"") -> bytes:
        """The body of a good reply; asked again while the server is busy or cannot be reached."""
        length = f"content-type: application/json\r\ncontent-length: {len(body)}\r\n" if body else ""
        request = f"{method} {self._path}{path} HTTP/1.1\r\n{self._head}{length}\r\n".encode() + body
        pause_s, attempt = self._pause_s, 0
        while True:
            attempt += 1
            try:
                async with asyncio.timeout(self._timeout_s):
                    status, headers, found = await self._exchanged(request)
            except TimeoutError as error:
                raise NoAnswer(f"{self.url} did not answer within {self._timeout_s:g} s") from error
            except OSError as error:
                if attempt > self._retries:
                    raise EndpointError(f"{self.url} cannot be reached: {error or type(error).__name__}") from error
                status, headers, found = 0, {}, b""
            if 200 <= status < 300:
                return found
            if status in _HOPELESS:
                raise EndpointError(f"{self.url}{path} says {status}: {_reason(found)}")
            if status and (status not in _BUSY or attempt > self._retries):
                raise NoAnswer(f"{self.url} says {status}: {_reason(found)}")
            # Spread out, so that what was refused together does not come again together.
            await asyncio.sleep(_retry_after(headers) or pause_s * random.uniform(0.5, 1.0))
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    async def _exchanged(self, request: bytes) -> "_Reply":
        now = asyncio.get_running_loop().time
        while self._idle:
            connection = self._idle.pop()
            if connection.is_open and now() - connection.idle_since < IDLE_S:
                with contextlib.suppress(_HungUp):  # while it was idle: as if we had not asked
                    return await self._through(connection, request)
            connection.close()
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(CONNECT_S):
            _, connection = await loop.create_connection(_Connection, self._host, self._port, ssl=self._tls)
        return await self._through(connection, request)

    async def _through(self, connection: "_Connection", request: bytes) -> "_Reply":
        try:
            reply = await connection.ask(request)
        except BaseException:
            connection.close()
            raise
        if connection.is_open:
            connection.idle_since = asyncio.get_running_loop().time()
            self._idle.append(connection)
        return reply


_Reply = tuple[int, dict[bytes, bytes], bytes]


class _HungUp(ConnectionError):
    """The server closed the connection before it said anything."""


class _Connection(asyncio.Protocol):
    """One connection with at most one question under way."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport
        self._received = bytearray()
        self._reply: asyncio.Future[_Reply] | None = None
        self._head: tuple[int, dict[bytes, bytes]] | None = None
        self.is_open = False
        self.idle_since = 0.0

    async def ask(self, request: bytes) -> _Reply:
        """Raises _HungUp, or another ConnectionError, when it ends before the reply does."""
        self._reply = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._reply

    def close(self) -> None:
        self.is_open = False
        self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport, self.is_open = transport, True

    def data_received(self, data: bytes) -> None:
        self._received += data
        try:
            self._read(ended=False)
        except ValueError as error:
            self._fail(ConnectionError(f"what came is no HTTP: {error}"))

    def eof_received(self) -> None:
        self.is_open = False
        with contextlib.suppress(ValueError):
            self._read(ended=True)

    def connection_lost(self, error: Exception | None) -> None:
        self.is_open = False
        began = self._head is not None or self._received
        self._fail(ConnectionError("the server hung up in the middle of a reply") if began else _HungUp("it hung up"))

    def _fail(self, error: ConnectionError) -> None:
        self.is_open = False
        if self._reply and not self._reply.done():
            self._reply.set_exception(error)
        self._transport.close()

    def _read(self, *, ended: bool) -> None:
        while self._head is None:
            at = self._received.find(b"\r\n\r\n")
            if at < 0:
                if len(self._received) > _LARGEST_HEAD:
                    raise ValueError("a head that does not end")
                return
            status, headers = _parsed_head(bytes(self._received[:at]))
            del self._received[: at + 4]
            if status >= 200:  # else one that announces another
                self._head = status, headers
        status, headers = self._head
        body = _body(self._received, status, headers, ended)
        if body is None:
            return
        if headers.get(b"connection", b"").lower() == b"close" or self._received:
            self.is_open = False
        self._head = None
        if self._reply and not self._reply.done():
            self._reply.set_result((status, headers, body))
        if not self.is_open:
            self._transport.close()


def _parsed_head(head: bytes) -> tuple[int, dict[bytes, bytes]]:
    first, *lines = head.split(b"\r\n")
    version, _, rest = first.partition(b" ")
    if not version.startswith(b"HTTP/1."):
        raise ValueError(f"a head that begins with {_shown(first)}")
    headers: dict[bytes, bytes] = {}
    for line in lines:
        name, _, value = line.partition(b":")
        headers[name.strip().lower()] = value.strip()
    if version == b"HTTP/1.0":
        headers.setdefault(b"connection", b"close")
    return int(rest[:3]), headers


def _body(received: bytearray, status: int, headers: Mapping[bytes, bytes], ended: bool) -> bytes | None:
    """The body, taken out of what was received; None while some of it is still to come."""
    if b"chunked" in headers.get(b"transfer-encoding", b"").lower():
        return _unchunked(received)
    length = int(headers[b"content-length"]) if b"content-length" in headers else None
    if status in (204, 304):
        length = 0
    if (length or len(received)) > _LARGEST_BODY:
        raise ValueError(f"a body of {length or len(received)} bytes")
    if length is None:
        return _taken(received, len(received)) if ended else None
    return _taken(received, length) if len(received) >= length else None


def _unchunked(received: bytearray) -> bytes | None:
    if len(received) > _LARGEST_BODY:
        raise ValueError(f"a body of {len(received)} bytes")
    parts: list[bytes] = []
    at = 0
    while True:
        line_end = received.find(b"\r\n", at)
        if line_end < 0:
            return None
        size = int(bytes(received[at:line_end]).partition(b";")[0], 16)
        begin = line_end + 2
        if size == 0:
            # Trailers, if there are any, end with an empty line.
            end = begin if received[begin : begin + 2] == b"\r\n" else received.find(b"\r\n\r\n", begin)
            if end < 0 or len(received) < end + 2:
                return None
            del received[: end + (2 if end == begin else 4)]
            return b"".join(parts)
        if len(received) < begin + size + 2:
            return None
        parts.append(bytes(received[begin : begin + size]))
        at = begin + size + 2


def _taken(received: bytearray, length: int) -> bytes:
    body = bytes(received[:length])
    del received[:length]
    return body


def _retry_after(headers: Mapping[bytes, bytes]) -> float:
    try:
        return min(float(headers.get(b"retry-after", b"0")), LONGEST_PAUSE_S)
    except ValueError:  # a date
        return 0.0


def _reason(body: bytes) -> str:
    """The sentence in an error's body."""
    try:
        found = msgspec.json.decode(body)
        error = found.get("error", found) if isinstance(found, dict) else found
        message = error.get("message", error) if isinstance(error, dict) else error
        return str(message)[:500]
    except msgspec.DecodeError:
        return _shown(body)


def _shown(body: bytes) -> str:
    return body[:200].decode(errors="replace") or "nothing"
