"""Processes that a bench starts and drives: one line of JSON to them, one back. The standard library only.

Every side of a comparison runs in processes of its own, as it does in production. A peer's run on the interpreter of
its own virtual environment, so nothing here needs more than that.
"""

import asyncio
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent

START_S = 120.0
"""How long a process may take to say that it is ready."""
STOP_S = 10.0


class Part:
    """A process that does what it is told. It speaks first, when it is ready."""

    def __init__(self, name: str, command: Sequence[str], log: Path | None = None) -> None:
        """`log` takes what it writes on stderr; without one, that is shown."""
        self.name = name
        self._log = log.open("ab") if log else None
        self._process = subprocess.Popen(
            list(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, cwd=ROOT, bufsize=0,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        self.ready = self.hear(START_S)

    @property
    def pid(self) -> int:
        return self._process.pid

    def tell(self, do: str, **details: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": do, **details}).encode() + b"\n")

    def hear(self, timeout_s: float = 900.0) -> dict[str, Any]:
        """The next line it says. Raises RuntimeError when it says none in time, or has ended."""
        assert self._process.stdout is not None
        heard, _, _ = select.select([self._process.stdout], [], [], timeout_s)
        line = self._process.stdout.readline() if heard else b""
        if not line:
            silent = f"said nothing for {timeout_s:g} s"
            state = f"ended with {self._process.wait(STOP_S)}" if heard else silent
            self.stop()
            raise RuntimeError(f"{self.name} {state}: {self._written()}")
        said: dict[str, Any] = json.loads(line)
        return said

    def ask(self, do: str, **details: Any) -> dict[str, Any]:
        self.tell(do, **details)
        return self.hear()

    def _written(self) -> str:
        return Path(self._log.name).read_text()[-2000:] if self._log else "see above"

    def stop(self) -> None:
        end(self._process)
        for file in (self._process.stdin, self._process.stdout, self._log):
            if file is not None:
                file.close()


def end(process: subprocess.Popen[bytes]) -> None:
    """Stop a process, the hard way if it takes too long; returns when it is gone."""
    process.terminate()
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def python(module: str, *arguments: str, interpreter: str = sys.executable) -> list[str]:
    """The command that runs one of our modules; it must be started in ROOT."""
    return [interpreter, "-m", module, *arguments]


def end_in_order() -> None:
    """On SIGTERM too, stop what was started."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


async def obey(answers: Mapping[str, Callable[..., Awaitable[dict[str, Any]]]], **ready: Any) -> None:
    """Say that we are ready, then do what each line says, one after another, until there are no more.

    Standard output is for what we say; what others print goes to standard error.
    """
    replies, sys.stdout = sys.stdout, sys.stderr
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    print(json.dumps(ready), file=replies, flush=True)
    async for line in lines:
        wanted = json.loads(line)
        print(json.dumps(await answers[wanted.pop("do")](**wanted)), file=replies, flush=True)
