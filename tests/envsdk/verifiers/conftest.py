"""A local endpoint that answers like a model, and like a judge."""

import json
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

ANSWERS = {
    "What is 2 + 2?": [
        "<think>two and two</think>\n<answer>\n4\n</answer>",
        "The answer is \\boxed{4}",
        "<think>\n2 + 2\n</think>\n4",
    ],
    "What is 3 * 5?": ["<answer>15</answer> <answer>3</answer>", "15", "\\boxed{\\frac{30}{2}} or 13"],
    "Say nothing of use": ["<answer>unclosed", "<think>a</think><think>b</think>", "<result>never</result>"],
}


class Endpoint(ThreadingHTTPServer):
    """Answers each question with its answers in turn, and says yes of a response that ends with the true answer."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: list[dict[str, Any]] = []
        self.failing = 0
        """How many of the next calls are refused with status 500."""
        self._turn: Counter[str] = Counter()
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def reply(self, body: dict[str, Any]) -> dict[str, Any] | None:
        with self._lock:
            self.asked.append(body)
            self.failing -= 1
            if self.failing >= 0:
                return None
            messages = body["messages"]
            if body["model"] == "judge":
                true = messages[0]["content"].split("Ground truth answer:\n```\n")[1].split("\n```")[0]
                given = messages[0]["content"].split("Response:\n```\n")[1].split("\n```")[0]
                return {"role": "assistant", "content": "Yes." if given.rstrip("</answer>\n ").endswith(true) else "no"}
            question = next(m["content"] for m in messages if m["role"] == "user" and m["content"] in ANSWERS)
            if body.get("tools") and len(messages) == 1 and question == "What is 2 + 2?":
                name = body["tools"][0]["function"]["name"]
                call = {"id": "c1", "type": "function", "function": {"name": name, "arguments": '{"a": 2, "b": 2}'}}
                return {"role": "assistant", "content": None, "tool_calls": [call]}
            first = sum(message["role"] == "assistant" for message in messages)
            place = self._turn[question] if first == 0 else first
            self._turn[question] += first == 0
            return {"role": "assistant", "content": ANSWERS[question][place % 3]}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Endpoint

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        message = self.server.reply(body)
        reason = "tool_calls" if message and message.get("tool_calls") else "stop"
        reply: Any = {
            "id": "r", "object": "chat.completion", "created": 1, "model": body["model"],
            "choices": [{"index": 0, "finish_reason": reason, "message": message}],
            "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
        }  # fmt: skip
        data = json.dumps(reply if message else {"error": "down"}).encode()
        self.send_response(200 if message else 500)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with Endpoint() as server:
        serving = threading.Thread(target=server.serve_forever, args=(0.05,))
        serving.start()
        yield server
        server.shutdown()
        serving.join()
