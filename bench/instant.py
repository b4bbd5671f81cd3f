"""An OpenAI-compatible endpoint that answers at once: `python -m bench.instant`, driven by `bench.eval`.

It says the last user message back. HTTP by hand, so that it costs less than any client that is measured against it.
"""

import asyncio
import json
from typing import Any

from bench.parts import obey

_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"


class Instant(asyncio.Protocol):
    """One connection."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport, self._received = transport, bytearray()

    def data_received(self, data: bytes) -> None:
        self._received += data
        while (end := self._received.find(b"\r\n\r\n")) >= 0:
            head = bytes(self._received[:end]).lower()
            at = head.find(b"content-length:")
            length = int(head[at + 15 :].partition(b"\r\n")[0]) if at >= 0 else 0
            if len(self._received) < end + 4 + length:
                return
            body = bytes(self._received[end + 4 : end + 4 + length])
            del self._received[: end + 4 + length]
            reply = json.dumps(_completion(json.loads(body)) if body else {"data": [{"id": "echo"}]}).encode()
            self._transport.write(_HEAD % len(reply) + reply)


def _completion(request: dict[str, Any]) -> dict[str, Any]:
    said = next(m["content"] for m in reversed(request["messages"]) if m["role"] == "user")
    message = {"role": "assistant", "content": said}
    return {
        "id": "chatcmpl-0", "object": "chat.completion", "created": 0, "model": request["model"],
        "choices": [{"index": 0, "finish_reason": "stop", "logprobs": None, "message": message}],
        "usage": {"prompt_tokens": 32, "completion_tokens": 32, "total_tokens": 64},
    }  # fmt: skip


async def main() -> None:
    server = await asyncio.get_running_loop().create_server(Instant, "127.0.0.1", 0, backlog=4096)
    await obey({}, url=f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1")


if __name__ == "__main__":
    asyncio.run(main())
