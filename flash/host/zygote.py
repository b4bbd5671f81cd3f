"""The child that loads an environment and forks to score it. Runs as a script; nothing of ours but envsdk is imported.

    python -I -S -B zygote.py FD FOLDER...      FD: our end of the channel; FOLDERs: where msgspec and envsdk are

    in    Config once, then Question after Question, and Words for the forks that play episodes
    out   ["ready", about] or ["failed", fault, missing] once; then ["answer", id, payload, output] as a fork tells
          it, and ["ended", id, status, detail, output, busy_us, max_rss_kb] when nothing of the fork is left

A fork reads one question and writes answers: u32 length, u32 bytes it has printed so far, payload. Length 0: no more,
and the microseconds that the answers took, added up. The payloads are not read here.

The question `episodes` has no answers of its own: its fork stays, with what happens in it, and answers the words that
follow. How long each of those may take is the parent's to say, by an empty word, which ends the fork.
"""

import _thread
import contextlib
import ctypes
import gc
import math
import os
import random
import resource
import select
import signal
import site
import socket
import struct
import sys
import time
import traceback
import zlib
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

if __name__ == "__main__":
    sys.path[:0] = sys.argv[2:]

import msgspec

from envsdk import EnvironmentSingleTurn, TaskExample, dialects
from envsdk.examples import Message
from envsdk.faults import fault, missing_need
from envsdk.hosted import Hosted
from envsdk.playing import Episodes, Word

LENGTH = struct.Struct("<I")
HEAD = struct.Struct("<II")
FRAME_BYTES = 8 << 20
ANSWER_BYTES = 1 << 20
OUTPUT_BYTES = 64 << 10
"""How much of what one answer printed is kept."""

_READS_WITHIN_S = 2.0
"""How long a fork may leave a word unread."""
_TOGETHER_S = 0.001
"""How long an answer may wait for the next, to be told with it."""
_SPARES = 4
"""Forks made ahead, so that no question waits for one; several at a time, for each time costs the zygote a fault on
every page that it writes on."""
_REHEARSALS = 32
"""More than Python's specialising takes to settle."""
_NO_NEW_PRIVS, _DEATH_SIGNAL, _SUBREAPER = 38, 1, 36
_encode = msgspec.msgpack.Encoder().encode
_prctl = ctypes.CDLL(None, use_errno=True).prctl


class Config(msgspec.Struct):
    """What to load, and what its forks may use."""

    folder: str
    params: dict[str, Any]
    requirements: str
    """The folder of the environment's requirement set, before `packages` on the path; empty for none."""
    packages: list[str]
    """Folders with third-party packages: last on the path."""
    scratch: str
    slots: int
    episodes: int
    """How many more forks there may be where they play episodes, each those of a group."""
    memory_bytes: int
    """Address space of a fork beyond what the loaded environment has."""
    open_files: int
    file_bytes: int
    parent: int
    """Our parent's process id: when it is another, the parent has died."""


class Question(msgspec.Struct, array_like=True, tag="question"):
    """Something for a fork to do."""

    id: int
    deadline_s: float
    """For each answer anew."""
    body: bytes
    """MessagePack [method of Hosted, arguments, CPU seconds]."""


class Further(msgspec.Struct, array_like=True, tag="further"):
    """A word for the fork that holds a question."""

    id: int
    body: bytes
    """MessagePack [number to answer under, method of Episodes, arguments]; empty: the fork is to end."""


_decode = msgspec.msgpack.Decoder(Question | Further).decode


@dataclass(eq=False, slots=True)
class Fork:
    """A child that answers one question."""

    pid: int
    slot: int
    channel: socket.socket
    question: Question | None = None
    deadline: float = 0.0
    received: bytearray = field(default_factory=bytearray)
    printed: int = 0
    """How many bytes of its output have gone out with answers."""
    wait_status: int | None = None
    usage: resource.struct_rusage | None = None


class Zygote:
    """The loop: questions in, forks, answers out."""

    def __init__(self, channel: socket.socket, hosted: Hosted, config: Config, slots: int) -> None:
        self.channel, self.hosted, self.config, self.pid = channel, hosted, config, os.getpid()
        self.slots = [Slot(Path(config.scratch) / f"slot-{number}") for number in range(slots)]
        self.free = list(range(slots))
        self.forks: dict[int, Fork] = {}
        self.by_fd: dict[int, Fork] = {}
        self.by_question: dict[int, Fork] = {}
        self.early: dict[int, list[bytes]] = {}
        """Words for forks that there are not yet, by question."""
        self.spares: deque[Fork] = deque()
        self.waiting: deque[Question] = deque()
        self.received, self.to_send = bytearray(), bytearray()
        self.poll = select.epoll()
        self.children_fd = os.open(f"/proc/self/task/{os.getpid()}/children", os.O_RDONLY | os.O_CLOEXEC)
        self.address_space = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGESIZE")

    def run(self) -> NoReturn:
        self.channel.setblocking(False)
        self.poll.register(self.channel.fileno(), select.EPOLLIN)
        while True:
            self.hand_out()
            for fd, _ in self.poll.poll(self.patience_s()):
                if fd == self.channel.fileno():
                    self.hear_parent()
                elif fork := self.by_fd.get(fd):
                    self.hear_fork(fork)
            now = time.monotonic()
            for fork in [fork for fork in self.forks.values() if fork.question and now >= fork.deadline]:
                self.end(fork, "timeout", f"no answer within {fork.question.deadline_s:g} s" if fork.question else "")
            self.flush()

    def patience_s(self) -> float | None:
        deadlines = [fork.deadline for fork in self.forks.values() if fork.question]
        if (left_s := min(deadlines, default=math.inf) - time.monotonic()) < math.inf:
            return max(0.0, left_s)
        return 0.05 if self.waiting else None  # a fork was refused a moment ago: try again soon

    def hear_parent(self) -> None:
        data = self.channel.recv(1 << 20)
        if not data:
            self.leave()
        self.received += data
        while (frame := _take_frame(self.received)) is not None:
            match _decode(frame):
                case Question() as question:
                    self.waiting.append(question)
                case Further(id, body):
                    self.go_on(id, body)

    def go_on(self, id: int, body: bytes) -> None:
        """A further word for a fork; one that comes too late is for nobody."""
        if waiting := next((question for question in self.waiting if question.id == id), None):
            if body:
                self.early.setdefault(id, []).append(body)
                return
            self.waiting.remove(waiting)
            self.early.pop(id, None)
            self.tell("ended", id, "ok", "", b"", 0, 0)
        elif fork := self.by_question.get(id):
            if not body:
                self.end(fork, "ok", "")
                return
            fork.channel.settimeout(_READS_WITHIN_S)
            try:
                fork.channel.sendall(LENGTH.pack(len(body)) + body)
            except TimeoutError:
                self.end(fork, "crash", "did not read what it was told")
            except OSError:  # it has died: its channel says so too
                return
            else:
                fork.channel.setblocking(False)

    def hear_fork(self, fork: Fork) -> None:
        try:
            data = fork.channel.recv(1 << 18)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.end(fork, *self.cause_of_death(fork))
            return
        fork.received += data
        while len(fork.received) >= HEAD.size:
            length, printed = HEAD.unpack_from(fork.received)
            if length > ANSWER_BYTES:
                self.end(fork, "oversize", f"an answer of {length} bytes, at most {ANSWER_BYTES} are taken")
                return
            if len(fork.received) < HEAD.size + length:
                return
            payload = bytes(fork.received[HEAD.size : HEAD.size + length])
            del fork.received[: HEAD.size + length]
            if not fork.question or not length:
                self.end(fork, "ok", "", busy_us=printed)
                return
            self.tell("answer", fork.question.id, payload, self.output_of(fork, printed))
            fork.deadline = time.monotonic() + fork.question.deadline_s

    def hand_out(self) -> None:
        """Questions to forks, and a fork ahead of the next question."""
        while self.waiting and (self.spares or self.free):
            if not self.spares and not self.fork():
                return
            fork, question = self.spares.popleft(), self.waiting.popleft()
            fork.channel.setblocking(True)
            try:
                fork.channel.sendall(LENGTH.pack(len(question.body)) + question.body)
            except OSError:  # the spare has died meanwhile: the question is not to blame
                self.waiting.appendleft(question)
                self.end(fork, "lost", "")
                continue
            fork.channel.setblocking(False)
            fork.question, fork.deadline = question, time.monotonic() + question.deadline_s
            self.by_question[question.id] = fork
            for body in self.early.pop(question.id, ()):
                self.go_on(question.id, body)
        if not self.spares:
            while self.free and len(self.spares) < _SPARES and self.fork():
                pass

    def fork(self) -> bool:
        """One more spare; False where the system refuses for the moment."""
        ours, theirs = socket.socketpair()
        slot = self.free.pop()
        try:
            pid = os.fork()
        except OSError:
            ours.close()
            theirs.close()
            self.free.append(slot)
            return False
        if pid == 0:
            ours.detach()
            self.serve(theirs, self.slots[slot])
        theirs.close()
        ours.setblocking(False)
        fork = Fork(pid=pid, slot=slot, channel=ours)
        self.forks[pid] = self.by_fd[ours.fileno()] = fork
        self.poll.register(ours.fileno(), select.EPOLLIN)
        self.spares.append(fork)
        return True

    def end(self, fork: Fork, status: str, detail: str, busy_us: int = 0) -> None:
        """Nothing of the fork is left when this returns, and its question is told as ended."""
        for pid in (-fork.pid, fork.pid):
            _kill(pid)
        while fork.wait_status is None:
            self.reap(fork.pid, 0)
        self.poll.unregister(fork.channel.fileno())
        del self.forks[fork.pid], self.by_fd[fork.channel.fileno()]
        fork.channel.close()
        if fork in self.spares:
            self.spares.remove(fork)
        self.sweep()
        if fork.question:
            self.by_question.pop(fork.question.id, None)
        if fork.question and fork.usage:
            output = self.output_of(fork, self.slots[fork.slot].printed())
            self.tell("ended", fork.question.id, status, detail, output, busy_us, fork.usage.ru_maxrss)
        self.slots[fork.slot].empty()
        self.free.append(fork.slot)

    def sweep(self) -> None:
        """Kill what forks have left behind: orphans become our children. Raises RuntimeError if they do not die."""
        give_up = time.monotonic() + 3.0
        while strays := {int(pid) for pid in os.pread(self.children_fd, 1 << 16, 0).split()} - self.forks.keys():
            for pid in strays:
                _kill(pid)
            self.reap(-1, os.WNOHANG)
            if time.monotonic() > give_up:
                raise RuntimeError(f"{len(strays)} processes that an answer left behind do not die")
            time.sleep(0.0005)

    def reap(self, pid: int, options: int) -> None:
        while True:
            try:
                found, status, usage = os.wait4(pid, options)
            except ChildProcessError:
                return
            if found == 0:
                return
            if fork := self.forks.get(found):
                fork.wait_status, fork.usage = status, usage
                if found == pid:
                    return

    def cause_of_death(self, fork: Fork) -> tuple[str, str]:
        for _ in range(20):  # its socket closes a moment before it can be waited for
            self.reap(fork.pid, os.WNOHANG)
            if fork.wait_status is not None:
                break
            time.sleep(0.001)
        if fork.wait_status is None:
            return "crash", "closed its answer channel"
        code = os.waitstatus_to_exitcode(fork.wait_status)
        if code >= 0:
            return "exit", f"the process exited with status {code}"
        if -code == signal.SIGXCPU:
            return "cpu", "used up its CPU time"
        return "crash", f"the process was killed by {_signal_name(-code)}"

    def output_of(self, fork: Fork, upto: int) -> bytes:
        start, fork.printed = fork.printed, max(upto, fork.printed)
        return os.pread(self.slots[fork.slot].output_fd, min(OUTPUT_BYTES, fork.printed - start), start)

    def tell(self, *frame: Any) -> None:
        body = _encode(frame)
        self.to_send += LENGTH.pack(len(body))
        self.to_send += body

    def flush(self) -> None:
        if self.to_send:
            self.channel.setblocking(True)
            self.channel.sendall(self.to_send)
            self.channel.setblocking(False)
            self.to_send.clear()

    def leave(self) -> NoReturn:
        """Our parent has hung up."""
        for fork in list(self.forks.values()):
            fork.question = None
            self.end(fork, "lost", "")
        os._exit(0)

    def serve(self, channel: socket.socket, slot: "Slot") -> NoReturn:
        """In the fork: answer one question."""
        try:
            os.setsid()
            _die_with(self.pid)
            self.channel.close()
            self.poll.close()
            os.close(self.children_fd)
            for fork in self.forks.values():
                fork.channel.close()
            slot.enter()
            _limit(resource.RLIMIT_AS, self.address_space + self.config.memory_bytes)
            _limit(resource.RLIMIT_NOFILE, self.config.open_files)
            answer(self.hosted, channel)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(70)


class Slot:
    """The place of a fork: a folder for its files, and one for what it prints."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)
        os.mkdir(self.folder, 0o700)
        self.output_fd = os.open(f"{self.folder}/output", os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        os.unlink(f"{self.folder}/output")

    def enter(self) -> None:
        """In the fork."""
        os.dup2(self.output_fd, 1)
        os.dup2(self.output_fd, 2)
        os.environ["TMPDIR"] = os.environ["HOME"] = self.folder
        if loaded := sys.modules.get("tempfile"):
            loaded.tempdir = self.folder  # type: ignore[attr-defined]

    def printed(self) -> int:
        return os.fstat(self.output_fd).st_size

    def empty(self) -> None:
        if self.printed():
            os.ftruncate(self.output_fd, 0)
        with os.scandir(self.folder) as entries:
            for entry in list(entries):
                if entry.is_dir(follow_symlinks=False):
                    import shutil  # loaded where it is used: what the zygote has in memory costs every fork

                    shutil.rmtree(entry.path, ignore_errors=True)
                else:
                    with contextlib.suppress(OSError):
                        os.unlink(entry.path)


def answer(hosted: Hosted, channel: socket.socket) -> NoReturn:
    """Read one question and write its answers as they come. Never returns."""
    method, args, cpu_s, seed = _question(channel)
    spent = int(time.process_time()) + 1
    _limit(resource.RLIMIT_CPU, spent + int(cpu_s), spent + int(cpu_s) + 1)
    random.seed(seed)  # the same question draws the same numbers, whoever asks again; another one others
    respond(hosted, channel, method, args)
    os._exit(0)


def _question(channel: socket.socket) -> tuple[str, dict[str, Any], float, int]:
    """Method, arguments, CPU seconds, and a number that is the question's own."""
    (length,) = LENGTH.unpack(_read_exactly(channel, LENGTH.size))
    body = _read_exactly(channel, length)
    return *msgspec.msgpack.decode(body), zlib.crc32(body)


def respond(hosted: Hosted, channel: socket.socket, method: str, args: dict[str, Any]) -> None:
    # Of the answers of several threads. Not `threading`: what that does at every fork costs more than a lock.
    one_at_a_time = _thread.allocate_lock()

    # Answers that follow one another at once travel together: each journey costs more than a quick score. What a fork
    # that dies had not yet told is asked again, like everything behind it.
    told, sent_at = bytearray(), time.monotonic()

    def tell(index: int, value: dict[str, Any]) -> None:
        nonlocal sent_at
        payload = _payload(index, value)
        with one_at_a_time:
            try:
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


def rehearse(slot: Slot) -> None:
    """Answer for nobody, until Python has no more to learn of it: what it writes down as it learns (call counts,
    specialised bytecode, looked-up attributes), each fork would write on pages of its own."""
    ours, theirs = socket.socketpair()
    row = {"record": {}, "input": "", "id": "", "metadata": {}, "output": ""}
    args = {"example": row, "texts": ["", ""], "thinking": False, "prompt_opened": False, "at_once": 1}
    body = _encode(["score", args, 1.0])
    hosted = Hosted(_Rehearsed(), Path(), {}, in_code=True)
    outputs = [(fd, os.dup(fd)) for fd in (1, 2)]
    for _ in range(_REHEARSALS):
        slot.enter()
        _die_with(os.getppid())
        _limit(resource.RLIMIT_CORE, 0)
        ours.sendall(LENGTH.pack(len(body)) + body)
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
        (length,) = LENGTH.unpack(_read_exactly(channel, LENGTH.size))
        yield msgspec.msgpack.decode(_read_exactly(channel, length))


def _payload(index: int, value: dict[str, Any]) -> bytes:
    try:
        payload = _encode((index, value))
    except Exception as error:  # text with a lone surrogate, for one
        return _encode((index, {"fault": _fault("invalid-result", f"what was given cannot be written down: {error}")}))
    if len(payload) > ANSWER_BYTES:
        found = f"what was given takes {len(payload)} bytes, at most {ANSWER_BYTES} are taken"
        return _encode((index, {"fault": _fault("limit-exceeded", found)}))
    return payload


def _fault(kind: str, message: str) -> dict[str, str]:
    return {"kind": kind, "message": message, "traceback": ""}


def main() -> NoReturn:
    channel = socket.socket(fileno=int(sys.argv[1]))
    channel.set_inheritable(False)
    (length,) = LENGTH.unpack(_read_exactly(channel, LENGTH.size))
    config = msgspec.msgpack.decode(_read_exactly(channel, length), type=Config)
    _die_with(config.parent)
    _prctl(_SUBREAPER, 1, 0, 0, 0)
    _prctl(_NO_NEW_PRIVS, 1, 0, 0, 0)
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_FSIZE, config.file_bytes)
    try:
        hosted = _load(config)
        about = hosted.about()
        slots = max(1, min(config.slots, about["max_score_concurrency"]))
        slots += config.episodes if about["multi_turn"] else 0
        zygote = Zygote(channel, hosted, config, slots + _SPARES)
    except BaseException as error:
        folder = Path(config.folder)
        body = _encode(["failed", fault(error, folder, kind="load-failed"), missing_need(error, folder)])
        channel.sendall(LENGTH.pack(len(body)) + body)
        os._exit(1)
    rehearse(zygote.slots[0])
    gc.collect()
    gc.freeze()
    zygote.tell("ready", {**about, "slots": slots})
    zygote.flush()
    zygote.run()


def _load(config: Config) -> Hosted:
    for folder in sys.argv[2:]:
        sys.path.remove(folder)
    if config.requirements:
        site.addsitedir(config.requirements)  # its `.pth` files are read
    sys.path.extend(config.packages)
    sys.argv[:] = ["environment.py"]
    os.environ.pop("LD_BIND_NOW", None)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True, errors="backslashreplace")  # type: ignore[union-attr]
    _give_builtins()
    dialects.install()
    os.chdir(config.folder)
    return Hosted.load(Path(config.folder), config.params)


def _give_builtins() -> None:
    """`exit` and `quit`, which `-S` leaves out."""
    site.setquit()


def _take_frame(received: bytearray) -> bytes | None:
    if len(received) < LENGTH.size:
        return None
    (length,) = LENGTH.unpack_from(received)
    if len(received) < LENGTH.size + length:
        return None
    frame = bytes(received[LENGTH.size : LENGTH.size + length])
    del received[: LENGTH.size + length]
    return frame


def _read_exactly(channel: socket.socket, num_bytes: int) -> bytes:
    parts = []
    while num_bytes:
        part = channel.recv(min(num_bytes, 1 << 20))
        if not part:
            os._exit(0)  # whoever was to ask has gone
        parts.append(part)
        num_bytes -= len(part)
    return b"".join(parts)


def _die_with(parent: int) -> None:
    _prctl(_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(0)


def _limit(which: int, soft: int, hard: int | None = None) -> None:
    """Never above what we were given."""
    most = resource.getrlimit(which)[1]
    bounded = [value if most == resource.RLIM_INFINITY else min(value, most) for value in (soft, hard or soft)]
    resource.setrlimit(which, (bounded[0], bounded[1]))


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, signal.SIGKILL)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


if __name__ == "__main__":
    main()
