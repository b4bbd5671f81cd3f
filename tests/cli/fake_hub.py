"""As much of the Hugging Face hub as a push needs: it makes repositories, and takes commits of files."""

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class FakeHub:
    url: str = ""
    token: str = "hf_fake"
    made: list[dict[str, Any]] = field(default_factory=list)
    """What repositories were asked for."""
    files: dict[str, bytes] = field(default_factory=dict)
    """What was committed, by its path with the repository's."""


@contextmanager
def fake_hub() -> Iterator[FakeHub]:
    hub = FakeHub()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.headers.get("Authorization") != f"Bearer {hub.token}":
                self._answer(401, {"error": "Invalid user token."})
            elif self.path == "/api/repos/create":
                hub.made.append(json.loads(body))
                self._answer(200, {"url": f"{hub.url}/{_repository(hub.made[-1])}"})
            elif "/preupload/" in self.path:
                asked = [{"path": file["path"], "uploadMode": "regular"} for file in json.loads(body)["files"]]
                self._answer(200, {"files": [{**file, "shouldIgnore": False} for file in asked]})
            elif "/commit/" in self.path:
                repository = self.path.removeprefix("/api/models/").partition("/commit/")[0]
                for line in map(json.loads, body.splitlines()):
                    if line["key"] == "file":
                        hub.files[f"{repository}/{line['value']['path']}"] = base64.b64decode(line["value"]["content"])
                commit = {"commitUrl": f"{hub.url}/{repository}/commit/1", "commitOid": "1"}
                self._answer(200, {"success": True, **commit})
            else:
                self._answer(200, {})

        def _answer(self, status: int, told: Any) -> None:
            data = json.dumps(told).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:
            return None

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _repository(asked: dict[str, Any]) -> str:
    return "/".join(part for part in (asked.get("organization"), asked["name"]) if part)
