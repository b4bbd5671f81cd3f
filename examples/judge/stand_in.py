"""Stands in for the judge where no model that could be one is at hand: `python stand_in.py --port 8123`.

It speaks as an OpenAI-compatible endpoint does, and grades by rule: the share of neighbours that are in order.
"""

import argparse
import json
import re
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise


class Judge(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        message = {"role": "assistant", "content": grade(asked["messages"][-1]["content"])}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        body = json.dumps({"object": "chat.completion", "model": asked["model"], "choices": [choice]}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: a run asks thousands of times."""


def grade(question: str) -> str:
    found = re.search(r"^Answered: (.*)$", question, re.MULTILINE)
    digits = found.group(1).split() if found else []
    pairs = list(pairwise(digits))
    return str(10 * sum(a <= b for a, b in pairs) // max(1, len(pairs)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=8123)
    ThreadingHTTPServer(("127.0.0.1", parser.parse_args().port), Judge).serve_forever()
