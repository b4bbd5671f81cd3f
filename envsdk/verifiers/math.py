"""Mathematical answers, compared by math-verify in a process that can be killed."""

import asyncio
import atexit
import contextlib
import importlib
import os
import pickle
import select
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from queue import LifoQueue
from typing import Any, NoReturn

from envsdk.verifiers.errors import RewardError
from envsdk.verifiers.parsers import MaybeThinkParser, Parser
from envsdk.verifiers.rubrics import RewardFunc, Rubric

_LENGTH = struct.Struct("<I")
_GRACE_S = 1.0
_ORPHAN_CPU_S = 60.0


def extract_boxed_answer(text: str, strict: bool = False) -> str:
    """What stands in the last `\\boxed{}`; without one, nothing if `strict`, else the text."""
    start = text.rfind("\\boxed{")
    depth = 0
    for at in range(start + len("\\boxed"), len(text) if start >= 0 else 0):
        depth += (text[at] == "{") - (text[at] == "}")
        if depth == 0:
            return text[start + len("\\boxed{") : at]
    return "" if strict else text


def extract_hash_answer(text: str) -> str:
    """What follows the first `####`, up to another."""
    return text.split("####")[1].strip() if "####" in text else text


class MathRubric(Rubric):
    """1.0 for a last `\\boxed{}` that is mathematically the answer, as metric `correct_answer`.

    An answer without a box, longer than `max_verify_chars`, or that takes longer than `timeout_seconds` to compare is
    wrong: 0.0. Raises ModuleNotFoundError where math-verify is not installed.
    """

    MAX_VERIFY_CHARS = 50_000

    def __init__(
        self,
        funcs: Sequence[RewardFunc] | None = None,
        weights: Sequence[float] | None = None,
        parser: Parser | None = None,
        max_workers: int = 8,
        timeout_seconds: float = 5,
        max_verify_chars: int = MAX_VERIFY_CHARS,
    ) -> None:
        if find_spec("math_verify") is None:
            raise ModuleNotFoundError(
                'MathRubric compares answers with math-verify, which is not installed: name "math-verify" in '
                "`[environment] pip`, or install it here",
                name="math_verify",
            )
        # Before anything is forked from here: the import takes a second, and so may the first comparison where the
        # machine is busy, which would make it wrong.
        same_answer("x+1/2", "x+\\frac{1}{2}", 60)

        super().__init__(funcs, weights, parser or MaybeThinkParser(partial(extract_boxed_answer, strict=True)))
        self.timeout_seconds, self.max_verify_chars = timeout_seconds, max_verify_chars
        self._idle: LifoQueue[Worker] = LifoQueue()
        for _ in range(max(1, min(max_workers, os.cpu_count() or 1))):
            self._idle.put(Worker())
        self.add_reward_func(self.correct_answer)

    async def correct_answer(self, parser: Parser, completion: Any, answer: Any) -> float:
        response = parser.parse_answer(completion) or ""
        if not response or len(response) > self.max_verify_chars:
            return 0.0
        return float(await asyncio.to_thread(self._compared, str(response), str(answer)))

    def _compared(self, response: str, answer: str) -> bool:
        worker = self._idle.get()
        try:
            question = (response, answer, max(1, int(self.timeout_seconds)))
            return bool(worker.ask(same_answer, question, self.timeout_seconds + _GRACE_S))
        finally:
            self._idle.put(worker)

    async def teardown(self) -> None:
        await super().teardown()
        for worker in list(self._idle.queue):
            worker.stop()


def same_answer(response: str, answer: str, timeout_s: int) -> bool:
    """Whether they are the same mathematically. Only on a main thread: math-verify times itself with an alarm."""
    math_verify: Any = importlib.import_module("math_verify")
    parse, verify = math_verify.parse, math_verify.verify
    out_of_time = importlib.import_module("math_verify.errors").TimeoutException
    began = time.perf_counter()
    try:
        gold = parse(f"\\boxed{{{answer}}}", parsing_timeout=timeout_s)
        given = parse(f"\\boxed{{{response}}}", parsing_timeout=timeout_s)
        same = bool(verify(gold, given, timeout_seconds=timeout_s))
        return same and time.perf_counter() - began <= timeout_s
    except (Exception, out_of_time):  # its timeout is no Exception; text that it cannot read is no match
        return False


class Worker:
    """A fork of this process that answers one question at a time, and is killed when it takes too long.

    It is forked when it is first asked, and again in each process that this one forks: nobody shares one. It ends when
    whoever forked it does, at the latest after `_ORPHAN_CPU_S` of work, and holds none of their files.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pid = self._owner = 0
        self._ours = -1

    def ask(self, func: Callable[..., Any], args: tuple[Any, ...], timeout_s: float) -> Any:
        """What the function gives; None when it takes longer. Raises RewardError when the worker dies of it."""
        with self._lock:
            if self._owner != os.getpid():
                self._start()
            body = pickle.dumps((func, args))
            try:
                _write(self._ours, body)
                answer = _read(self._ours, time.monotonic() + timeout_s)
            except OSError as error:
                self._kill()
                raise RewardError(f"{func.__name__} brought its process down: {error}") from error
            if answer is None:
                self._kill()
            return answer and answer[0]

    def stop(self) -> None:
        with self._lock:
            self._kill()

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            _serve(theirs.detach())
        theirs.close()
        if self._ours >= 0 and self._owner:
            os.close(self._ours)  # another process's, inherited
        self._pid, self._owner, self._ours = pid, parent, ours.detach()
        os.set_inheritable(self._ours, False)
        atexit.register(self._kill)

    def _kill(self) -> None:
        if self._owner != os.getpid():
            return
        self._owner = 0
        atexit.unregister(self._kill)
        os.close(self._ours)
        self._ours = -1
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)


def _serve(channel: int) -> NoReturn:
    """In the fork: answer until nobody asks any more."""
    try:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM, signal.SIGPROF):
            signal.signal(number, signal.SIG_DFL)
        nothing = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(nothing, stream)
        highest = max(int(name) for name in os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 1024
        os.closerange(3, channel)
        os.closerange(channel + 1, highest + 1)
        while (question := _read(channel, None)) is not None:
            func, args = question
            signal.setitimer(signal.ITIMER_PROF, _ORPHAN_CPU_S)  # math-verify's own alarm is another
            _write(channel, pickle.dumps((func(*args),)))
    finally:
        os._exit(0)


def _write(channel: int, body: bytes) -> None:
    data = memoryview(_LENGTH.pack(len(body)) + body)
    while data:
        data = data[os.write(channel, data) :]


def _read(channel: int, deadline: float | None) -> Any:
    """One message; None when it does not come in time, or nobody is there to send it."""
    head = _exactly(channel, _LENGTH.size, deadline)
    body = head and _exactly(channel, _LENGTH.unpack(head)[0], deadline)
    return pickle.loads(body) if body else None


def _exactly(channel: int, num_bytes: int, deadline: float | None) -> bytes | None:
    found = b""
    while len(found) < num_bytes:
        if deadline is not None and not select.select([channel], [], [], max(0.0, deadline - time.monotonic()))[0]:
            return None
        part = os.read(channel, num_bytes - len(found))
        if not part:
            if deadline is not None:
                raise ConnectionError("it closed its end")
            return None
        found += part
    return found
