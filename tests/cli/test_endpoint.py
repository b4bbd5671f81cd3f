"""What servers send, and what is made of it: cli/endpoint.py."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from cli.endpoint import Answer, Endpoint, EndpointError, NoAnswer
from flash.errors import ConfigError

MESSAGES = [{"role": "user", "content": "Hello?"}]
Serve = Callable[..., Awaitable[tuple[Endpoint, list[tuple[str, dict[str, Any]]]]]]


def completion(content: Any = "Hi.", **more: Any) -> bytes:
    message = {"role": "assistant", "content": content, **more}
    usage = {"prompt_tokens": 3, "completion_tokens": 2}
    return json.dumps({"choices": [{"message": message, "finish_reason": "length"}], "usage": usage}).encode()


def reply(body: bytes = completion(), status: str = "200 OK", *lines: str) -> bytes:
    head = [f"HTTP/1.1 {status}", f"content-length: {len(body)}", *lines]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


def chunked(body: bytes, size: int) -> bytes:
    parts = [body[at : at + size] for at in range(0, len(body), size)]
    return b"".join(b"%x;x=y\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """A server that sends these bytes, one after another, in the pieces that are given; None hangs up."""
    stops: list[Callable[[], Any]] = []

    async def begin(*replies: bytes | list[bytes] | None, **options: Any) -> Any:
        waiting, heard = list(replies), []

        async def on_connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                while True:
                    head = (await reader.readuntil(b"\r\n\r\n")).decode()
                    at = head.lower().find("content-length: ")
                    body = await reader.readexactly(int(head[at + 16 :].split("\r\n")[0])) if at >= 0 else b"{}"
                    heard.append((head, json.loads(body)))
                    found = waiting.pop(0) if len(waiting) > 1 else waiting[0]
                    for piece in [found] if isinstance(found, bytes) else found or []:
                        writer.write(piece)
                        await writer.drain()
                        await asyncio.sleep(0.001)
                    if found is None or b"connection: close" in b"".join(found if isinstance(found, list) else [found]):
                        return
            except (asyncio.IncompleteReadError, ConnectionError):
                pass
            finally:
                writer.close()

        server = await asyncio.start_server(on_connection, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        endpoint = Endpoint(url, pause_s=0.001, **options)
        stops.extend([server.close, lambda: asyncio.ensure_future(endpoint.close())])
        return endpoint, heard

    yield begin
    for stop in stops:
        stop()


async def asked(endpoint: Endpoint, **sampling: Any) -> Answer:
    return await endpoint.complete("m", MESSAGES, sampling)


@pytest.mark.parametrize(
    "sent",
    [
        reply(),
        [reply()[:20], reply()[20:90], reply()[90:]],
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(completion(), 7),
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
        + chunked(completion(), 9)[:-2]
        + b"a: trailer\r\n\r\n",
        [b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", *(bytes([c]) for c in chunked(completion(), 50))],
        b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n" + completion(),
        b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" + reply(),
        [b"HTTP/1.1 100 Continue\r\n\r\n", reply()],
    ],
    ids=["length", "pieces", "chunks", "trailer", "bytes", "until the end", "hints", "continue"],
)
async def test_a_body_ends_in_every_way_that_servers_end_it(serve: Serve, sent: Any) -> None:
    endpoint, _ = await serve(sent)

    for _ in range(2):
        answer = await asked(endpoint)
        assert (answer.text, answer.finish_reason) == ("Hi.", "length")
        assert (answer.prompt_tokens, answer.completion_tokens) == (3, 2)


async def test_what_is_asked_is_a_chat_completion_with_the_key_only_where_there_is_one(serve: Serve) -> None:
    endpoint, heard = await serve(reply(), api_key="k-1")

    await asked(endpoint, max_tokens=5, seed=1)

    head, body = heard[0]
    assert head.startswith("POST /v1/chat/completions HTTP/1.1\r\n")
    assert "authorization: Bearer k-1\r\n" in head
    assert body == {"model": "m", "messages": MESSAGES, "max_tokens": 5, "seed": 1}
    without, heard = await serve(reply())
    await asked(without)
    assert "authorization" not in heard[0][0]


@pytest.mark.parametrize(
    ("message", "text", "reasoning"),
    [
        ({"content": None}, "", ""),
        ({"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}, "ab", ""),
        ({"content": "x", "reasoning_content": "hm"}, "x", "hm"),
        ({"content": "x", "reasoning": "hm"}, "x", "hm"),
    ],
)
async def test_the_text_and_the_reasoning_are_told_apart(
    serve: Serve, message: dict[str, Any], text: str, reasoning: str
) -> None:
    endpoint, _ = await serve(reply(completion(**message)))

    answer = await asked(endpoint)

    assert (answer.text, answer.reasoning) == (text, reasoning)


async def test_a_busy_server_is_asked_again_when_it_says(serve: Serve) -> None:
    busy = reply(b"{}", "429 Too Many Requests", "retry-after: 0.01")
    endpoint, heard = await serve(busy, reply(b"", "503 Service Unavailable"), None, reply())

    assert (await asked(endpoint)).text == "Hi."
    assert len(heard) == 4


async def test_one_question_that_is_refused_is_no_reason_to_stop(serve: Serve) -> None:
    refused = reply(b'{"error": {"message": "maximum context length is 16 tokens"}}', "400 Bad Request")
    endpoint, _ = await serve(refused, reply())

    with pytest.raises(NoAnswer, match="says 400: maximum context length is 16 tokens"):
        await asked(endpoint)
    assert (await asked(endpoint)).text == "Hi."


async def test_a_limit_that_goes_by_another_name_is_given_by_that_name(serve: Serve) -> None:
    refused = reply(b'{"error": {"message": "use max_completion_tokens instead"}}', "400 Bad Request")
    endpoint, heard = await serve(refused, reply())

    await asked(endpoint, max_tokens=5)
    await asked(endpoint, max_tokens=5)

    assert [body.get("max_completion_tokens") for _, body in heard] == [None, 5, 5]


@pytest.mark.parametrize("status", ["401 Unauthorized", "404 Not Found"])
async def test_what_no_question_would_get_past_stops_everything(serve: Serve, status: str) -> None:
    endpoint, heard = await serve(reply(b'{"error": "no such key"}', status))

    with pytest.raises(EndpointError, match=r"/v1/chat/completions says 40[14]: no such key"):
        await asked(endpoint)
    assert len(heard) == 1


async def test_a_server_that_is_not_there_is_told() -> None:
    endpoint = Endpoint("http://127.0.0.1:1/v1", retries=1, pause_s=0.001)

    with pytest.raises(EndpointError, match=r"http://127.0.0.1:1/v1 cannot be reached: .*[Cc]onnect"):
        await asked(endpoint)


@pytest.mark.parametrize("sent", [b"SSH-2.0-OpenSSH\r\n\r\n", reply(b"<html>"), reply(b'{"choices": []}')])
async def test_what_is_no_completion_is_no_answer(serve: Serve, sent: bytes) -> None:
    endpoint, _ = await serve(sent, retries=1)

    with pytest.raises((NoAnswer, EndpointError)):
        await asked(endpoint)


async def test_an_answer_that_does_not_come_is_given_up(serve: Serve) -> None:
    endpoint, _ = await serve([], timeout_s=0.05)

    with pytest.raises(NoAnswer, match=r"did not answer within 0.05 s"):
        await asked(endpoint)


async def test_questions_in_flight_each_get_their_own_answer_over_connections_that_are_kept(serve: Serve) -> None:
    endpoint, heard = await serve(reply())

    await asyncio.gather(*(asked(endpoint) for _ in range(20)))
    await asyncio.gather(*(asked(endpoint) for _ in range(20)))

    assert len(heard) == 40
    assert len(endpoint._idle) == 20


@pytest.mark.parametrize("url", ["ftp://x/v1", "http:///v1", ""])
def test_what_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="--url is "):
        Endpoint(url)
