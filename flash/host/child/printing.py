"""What answers print that are worked at side by side: each keeps its own until it is told."""

import io
import threading
from collections import defaultdict
from typing import Any, TextIO

from envsdk.pools import ANSWERING

from .frames import OUTPUT_BYTES


class ByThread:
    """A stream whose writes wait with the thread that answers. Other threads' go on at once, like all else that is
    written to its descriptor: whose those are, nobody knows."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._kept: defaultdict[int, io.StringIO] = defaultdict(io.StringIO)

    def write(self, text: str) -> int:
        if not threading.current_thread().name.startswith(ANSWERING):
            return self._stream.write(text)
        kept = self._kept[threading.get_ident()]
        return kept.write(text) if kept.tell() < OUTPUT_BYTES else len(text)

    def writelines(self, lines: list[str]) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """What waits goes on waiting."""
        self._stream.flush()

    def pass_on(self) -> None:
        """What this thread's answer has printed."""
        if kept := self._kept.pop(threading.get_ident(), None):
            self._stream.write(kept.getvalue())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
