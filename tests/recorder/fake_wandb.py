"""A server of this process that speaks as W&B does, as far as its client asks."""

import gzip
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class FakeWandb:
    """Keeps runs as W&B does: by their id, with their rows."""

    url: str = ""
    status: int = 200
    """What it answers with; 200 is well."""
    keys: set[str] = field(default_factory=set)
    told: dict[str, Any] = field(default_factory=dict)
    """Of the run, as it was upserted."""
    rows: list[dict[str, Any]] = field(default_factory=list)
    exit_code: int | None = None
    summary: dict[str, Any] = field(default_factory=dict)
    asked: int = 0

    def answer(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        if path.endswith("/file_stream"):
            files = body.get("files", {})
            if history := files.get("wandb-history.jsonl"):
                self.rows[history["offset"] :] = map(json.loads, history["content"])
            for line in files.get("wandb-summary.json", {}).get("content", []):
                self.summary = json.loads(line)
            self.exit_code = body.get("exitcode", self.exit_code)
            return {}
        query, variables = body.get("query", ""), body.get("variables", {})
        if "upsertBucket" in query:
            self.told |= {name: value for name, value in variables.items() if value is not None}
            return {"data": {"upsertBucket": {"bucket": self._bucket(), "inserted": True}}}
        if "RunResumeStatus" in query:
            known = {"id": "p", "name": "mine", "entity": {"id": "e", "name": "us"}, "bucket": self._bucket()}
            return {"data": {"model": known if self.told else None}}
        if "createRunFiles" in query:
            return {"data": {"createRunFiles": {"runID": "x", "uploadHeaders": [], "files": []}}}
        return {"data": {}}

    def _bucket(self) -> dict[str, Any]:
        return {
            "id": "b", "name": self.told.get("name", ""), "displayName": self.told.get("displayName"), "tags": [],
            "config": "{}", "description": "", "sweepName": None,
            "project": {"id": "p", "name": "mine", "entity": {"name": "us"}},
            "historyLineCount": len(self.rows), "eventsLineCount": 0, "logLineCount": 0, "eventsTail": "[]",
            "summaryMetrics": "{}", "wandbConfig": '{"t": 1}', "notes": None,
            "historyTail": json.dumps([json.dumps(row) for row in self.rows[-1:]]),
        }  # fmt: skip

    @property
    def losses(self) -> list[tuple[int, float]]:
        return [(row["_step"], row["loss"]) for row in self.rows]


@contextmanager
def fake_wandb() -> Iterator[FakeWandb]:
    fake = FakeWandb()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            body = gzip.decompress(body) if self.headers.get("content-encoding") == "gzip" else body
            fake.asked += "otel" not in self.path
            fake.keys.add(self.headers.get("authorization") or "")
            found = fake.answer(self.path, json.loads(body)) if "otel" not in self.path and fake.status == 200 else {}
            sent = json.dumps(found).encode()
            self.send_response(fake.status)
            self.send_header("content-length", str(len(sent)))
            self.end_headers()
            self.wfile.write(sent)

        do_GET = do_POST

        def log_message(self, *args: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    fake.url = f"http://127.0.0.1:{server.server_port}"
    yield fake
    server.shutdown()
    server.server_close()
