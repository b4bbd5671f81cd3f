"""In a fork: one question, and its answers as they come."""

import _thread
import os
import random
import resource
import socket
import sys
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import msgspec

from envsdk import EnvironmentSingleTurn, TaskExample
from envsdk.examples import Message
from envsdk.hosted import Hosted
from envsdk.playing import Episodes, Word

from .confinement import die_with, limit
from .frames import ANSWER_BYTES, HEAD, encode, framed, read_frame
from .slot import Slot

if TYPE_CHECKING:
    from .printing import ByThread

_TOGETHER_S = 0.001
"""How long an answer may wait for the next, to be told with it."""
_REHEARSALS = 32
"""More than Python's specialising takes to settle."""


def answer(hosted: Hosted, channel: socket.socket) -> NoReturn:
    """Read one question and write its answers as they come. Never returns."""
    method, args, cpu_s, seed = _question(channel)
    spent = int(time.process_time()) + 1
    limit(resource.RLIMIT_CPU, spent + int(cpu_s), spent + int(cpu_s) + 1)
    random.seed(seed)  # the same question draws the same numbers, whoever asks again; another one others
    respond(hosted, channel, method, args)
    os._exit(0)


def _question(channel: socket.socket) -> tuple[str, dict[str, Any], float, int]:
    """Method, arguments, CPU seconds, and a number that is the question's own."""
    body = read_frame(channel)
    return *msgspec.msgpack.decode(body), zlib.crc32(body)


def respond(hosted: Hosted, channel: socket.socket, method: str, args: dict[str, Any]) -> None:
    # Of the answers of several threads. Not `threading`: what that does at every fork costs more than a lock.
    one_at_a_time = _thread.allocate_lock()

    # Answers that follow one another at once travel together: each journey costs more than a quick score. What a fork
    # that dies had not yet told is asked again, like everything behind it.
    told, sent_at = bytearray(), time.monotonic()
    side_by_side = args.get("at_once", 1) > 1 and len(args.get("texts", "more")) > 1
    apart = _printed_apart() if side_by_side else ()

    def tell(index: int, value: dict[str, Any]) -> None:
        nonlocal sent_at
        payload = _payload(index, value)
        with one_at_a_time:
            try:
                for stream in apart:
                    stream.pass_on()
                sys.stdout.flush()
                sys.stderr.flush()
            except Exception:
                pass
            told.extend(HEAD.pack(len(payload), os.fstat(1).st_size) + payload)
            now = time.monotonic()
            if method == "episodes" or now - sent_at > _TOGETHER_S:
                channel.sendall(told)
                told.clear()
                sent_at = now

    if method == "episodes":
        Episodes(hosted, args).play(_words(channel), tell, args["at_once"])
        return
    methods = {
        "rows": hosted.rows, "check": hosted.check, "score": hosted.score, "score_groups": hosted.score_groups,
    }  # fmt: skip
    busy_s = methods[method](args, tell) or 0.0
    channel.sendall(told + HEAD.pack(0, min(int(busy_s * 1e6), 2**32 - 1)))


def _printed_apart() -> "tuple[ByThread, ByThread]":
    from .printing import ByThread  # knows of threads: loaded where there are some

    sys.stdout, sys.stderr = found = ByThread(sys.stdout), ByThread(sys.stderr)
    return found


def rehearse(slot: Slot) -> None:
    """Answer for nobody, until Python has no more to learn of it: what it writes down as it learns (call counts,
    specialised bytecode, looked-up attributes), each fork would write on pages of its own."""
    ours, theirs = socket.socketpair()
    row = {"record": {}, "input": "", "id": "", "metadata": {}, "output": ""}
    args = {"example": row, "texts": ["", ""], "thinking": False, "prompt_opened": False, "at_once": 1}
    body = encode(["score", args, 1.0])
    hosted = Hosted(_Rehearsed(), Path(), {}, in_code=True)
    outputs = [(fd, os.dup(fd)) for fd in (1, 2)]
    for _ in range(_REHEARSALS):
        slot.enter()
        die_with(os.getppid())
        limit(resource.RLIMIT_CORE, 0)
        ours.sendall(framed(body))
        method, asked, _, seed = _question(theirs)
        random.seed(seed)
        respond(hosted, theirs, method, asked)
        ours.recv(ANSWER_BYTES)
    for fd, copy in outputs:
        os.dup2(copy, fd)
        os.close(copy)
    ours.close()
    theirs.close()


class _Rehearsed(EnvironmentSingleTurn):
    def build_prompt_messages(self, example: TaskExample, prompt_text: str) -> list[Message]:
        return []

    def score_response(self, example: TaskExample, response_text: str) -> Any:
        return 1.0


def _words(channel: socket.socket) -> Iterator[Word]:
    while True:
        yield msgspec.msgpack.decode(read_frame(channel))


def _payload(index: int, value: dict[str, Any]) -> bytes:
    try:
        payload = encode((index, value))
    except Exception as error:  # text with a lone surrogate, for one
        return encode((index, {"fault": _fault("invalid-result", f"what was given cannot be written down: {error}")}))
    if len(payload) > ANSWER_BYTES:
        found = f"what was given takes {len(payload)} bytes, at most {ANSWER_BYTES} are taken"
        return encode((index, {"fault": _fault("limit-exceeded", found)}))
    return payload


def _fault(kind: str, message: str) -> dict[str, str]:
    return {"kind": kind, "message": message, "traceback": ""}
