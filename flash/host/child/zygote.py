"""The loop of the child that loads an environment: questions in, forks, answers out. Payloads are not read here.

The question `episodes` has no answers of its own: its fork stays, with what happens in it, and answers the words that
follow. How long each of those may take is the parent's to say, by an empty word, which ends the fork.
"""

import contextlib
import math
import os
import resource
import signal
import socket
import sys
import time
import traceback
from collections import deque
from dataclasses import dataclass, field
from typing import Any, NoReturn

from envsdk.hosted import Hosted

from .answering import answer
from .confinement import Views, die_with, limit, outlive_nobody
from .frames import (
    ANSWER_BYTES,
    HEAD,
    OUTPUT_BYTES,
    SPARES,
    Config,
    Further,
    Question,
    decode,
    encode,
    framed,
    take_frame,
)
from .polling import IN, descriptors, poller
from .relay import Relay
from .slot import Slot
from .strays import kill, sweep

_READS_WITHIN_S = 2.0
"""How long a fork may leave a word unread."""
_LOADED_BYTES = 4 << 30
"""What the address space of a loaded environment is taken to be where nobody can see it."""


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

    def __init__(
        self, channel: socket.socket, hosted: Hosted, config: Config, slots: int, views: Views, relay: Relay | None
    ) -> None:
        self.channel, self.hosted, self.config, self.pid = channel, hosted, config, os.getpid()
        self.views, self.relay = views, relay
        self.poll = poller()
        self.slots = [
            Slot(f"{config.scratch}/slot-{number}", config.confinement, f"{config.scratch}/loaded")
            for number in range(slots)
        ]
        self.ours = [channel.fileno(), *descriptors(self.poll), *views.descriptors()]
        """Descriptors that forks do not keep."""
        self.ours += [fd for slot in self.slots for fd in slot.descriptors()]
        self.free = list(range(slots))
        self.forks: dict[int, Fork] = {}
        self.by_fd: dict[int, Fork] = {}
        self.by_question: dict[int, Fork] = {}
        self.early: dict[int, list[bytes]] = {}
        """Words for forks that there are not yet, by question."""
        self.spares: deque[Fork] = deque()
        self.waiting: deque[Question] = deque()
        self.received, self.to_send = bytearray(), bytearray()
        self.address_space = _LOADED_BYTES
        if views.statm is not None:
            self.address_space = int(os.pread(views.statm, 1 << 10, 0).split()[0]) * os.sysconf("SC_PAGESIZE")

    def run(self) -> NoReturn:
        self.channel.setblocking(False)
        self.poll.register(self.channel.fileno(), IN)
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
        while (frame := take_frame(self.received)) is not None:
            match decode(frame):
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
                fork.channel.sendall(framed(body))
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
                fork.channel.sendall(framed(question.body))
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
            self.fork()

    def fork(self) -> bool:
        """More spares; False where the system refuses for the moment.

        One fork right after the other: whatever is done in between costs a fault on every page that it writes on.
        """
        chosen = [self.free.pop() for _ in range(min(SPARES, len(self.free)))]
        pairs = [socket.socketpair() for _ in chosen]
        ends = [end.fileno() for pair in pairs for end in pair]
        pids: list[int] = []
        with contextlib.suppress(OSError):
            for (_, theirs), slot in zip(pairs, chosen, strict=True):
                if (pid := os.fork()) == 0:
                    self.serve(theirs, self.slots[slot], ends)
                pids.append(pid)
        for _, theirs in pairs:
            theirs.close()
        for ours, _ in pairs[len(pids) :]:
            ours.close()
        self.free += chosen[len(pids) :]
        for pid, slot, (ours, _) in zip(pids, chosen, pairs, strict=False):
            ours.setblocking(False)
            fork = Fork(pid=pid, slot=slot, channel=ours)
            self.forks[pid] = self.by_fd[ours.fileno()] = fork
            self.poll.register(ours.fileno(), IN)
            self.spares.append(fork)
        return bool(pids)

    def end(self, fork: Fork, status: str, detail: str, busy_us: int = 0) -> None:
        """Nothing of the fork is left when this returns, and its question is told as ended."""
        for pid in (-fork.pid, fork.pid):
            kill(pid)
        while fork.wait_status is None:
            self.reap(fork.pid, 0)
        self.poll.unregister(fork.channel.fileno())
        del self.forks[fork.pid], self.by_fd[fork.channel.fileno()]
        fork.channel.close()
        if fork in self.spares:
            self.spares.remove(fork)
        if self.views.children is not None:
            sweep(self.views.children, self.wanted, lambda: self.reap(-1, os.WNOHANG))
        elif fork.question:
            self.sweep_blindly()
        if fork.question:
            self.by_question.pop(fork.question.id, None)
        if fork.question and fork.usage:
            output = self.output_of(fork, self.slots[fork.slot].printed())
            self.tell("ended", fork.question.id, status, detail, output, busy_us, _kilobytes(fork.usage.ru_maxrss))
        self.slots[fork.slot].empty()
        self.free.append(fork.slot)

    def wanted(self) -> set[int]:
        """Children that are to be there."""
        return {*self.forks, self.relay.pid} if self.relay else {*self.forks}

    def sweep_blindly(self) -> None:
        """Without /proc nobody can be listed: once nothing is worked at, the first process of a namespace kills all."""
        if self.pid != 1 or any(fork.question for fork in self.forks.values()):
            return
        kill(-1)
        for spare in list(self.spares):
            self.end(spare, "lost", "")
        self.reap(-1, os.WNOHANG)
        if self.relay:
            self.relay.start()

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
        if fork.printed == start:
            return b""
        return os.pread(self.slots[fork.slot].output_fd, min(OUTPUT_BYTES, fork.printed - start), start)

    def tell(self, *frame: Any) -> None:
        body = encode(frame)
        self.to_send += framed(body)

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

    def serve(self, channel: socket.socket, slot: Slot, ends: list[int]) -> NoReturn:
        """In the fork: answer one question. `ends` are the channels of all that were made with it."""
        try:
            os.setsid()
            die_with(self.pid)
            outlive_nobody(self.pid)
            slot.enter()
            slot.fence.enter()
            kept = channel.fileno()
            for fd in (*self.ours, *self.by_fd, *ends):
                if fd != kept:
                    os.close(fd)
            limit(resource.RLIMIT_AS, self.address_space + self.config.memory_bytes)
            limit(resource.RLIMIT_NOFILE, self.config.open_files)
            answer(self.hosted, channel)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(70)


def _kilobytes(max_rss: int) -> int:
    """macOS tells it in bytes."""
    return max_rss >> 10 if sys.platform == "darwin" else max_rss


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
