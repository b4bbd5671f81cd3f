"""Our end of a zygote: starting it, its frames, the later deadline, and the certainty that it is gone."""

import asyncio
import contextlib
import math
import os
import secrets
import shutil
import signal
import socket
import struct
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec

import envsdk
from flash.contracts.values import Fault
from flash.errors import EnvironmentFault
from flash.host import zygote

GRACE_S = 3.0
"""How much later than the zygote we lose patience, and then it is the zygote that dies."""
HANG_UP_S = 10.0
"""How long the zygote may take to end a fork that stays: others live in it, so it is not killed lightly."""

_LENGTH = struct.Struct("<I")
_encode = msgspec.msgpack.Encoder().encode


class LoadFailed(EnvironmentFault):
    """The environment cannot be loaded."""

    def __init__(self, fault: Fault, missing: str = "") -> None:
        super().__init__(fault.message)
        self.fault = fault
        self.missing = missing
        """A module or environment variable that the package needs and this host does not have."""


@dataclass(frozen=True)
class Limits:
    """What the environment's forks may use."""

    slots: int = 4
    """Groups that are worked at side by side; never more than the environment's `max_score_concurrency`."""
    episodes: int = 64
    """Groups whose episodes are open side by side."""
    memory_bytes: int = 1 << 30
    """Address space of a fork beyond what the loaded environment has."""
    cpu_s: float = 120.0
    """CPU time for each answer."""
    open_files: int = 256
    file_bytes: int = 64 << 20


@dataclass(frozen=True)
class HostSpec:
    """An environment and how it is loaded."""

    folder: Path
    params: Mapping[str, Any] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    """The environment variables that the run declares; there are no others but the usual."""
    requirements: Path | None = None
    """The folder of its requirement set, on the path before what is installed beside Flash: a set adds to that, and of
    what both have its own is imported. msgspec and envsdk have been imported before either."""
    limits: Limits = Limits()


class Described(msgspec.Struct, frozen=True, kw_only=True):
    """What a loaded environment says of itself."""

    name: str
    """Its class."""
    split: str
    """The split it was loaded for."""
    splits: list[str]
    prompt_text: str
    max_score_concurrency: int
    isolation: Literal["group", "call"]
    scores_groups: bool
    """It compares the answers of a group, so they are scored in one call and fail together."""
    multi_turn: bool = False
    """It is played in episodes."""
    slots: int


class Ended(msgspec.Struct, frozen=True, array_like=True, tag="ended"):
    """Nothing is left of the fork that worked at a question."""

    id: int
    status: Literal["ok", "timeout", "cpu", "crash", "exit", "oversize", "lost"]
    detail: str = ""
    output: bytes = b""
    busy_us: int = 0
    """How long the answers took, added up."""
    max_rss_kb: int = 0


class _Ready(msgspec.Struct, frozen=True, array_like=True, tag="ready"):
    about: Described


class _Failed(msgspec.Struct, frozen=True, array_like=True, tag="failed"):
    fault: Fault
    missing: str


class _Answer(msgspec.Struct, frozen=True, array_like=True, tag="answer"):
    id: int
    payload: bytes
    output: bytes


OnAnswer = Callable[[bytes, str], None]
"""Takes the payload of an answer, and what was printed before it."""

_decode = msgspec.msgpack.Decoder(_Ready | _Failed | _Answer | Ended).decode


@dataclass(eq=False)
class _Call:
    on_answer: OnAnswer
    deadline_s: float
    ended: asyncio.Future[Ended]
    patience: asyncio.Timeout | None
    """None: its fork stays for as long as it is wanted."""


class Link(asyncio.Protocol):
    """One zygote and the questions it works at. It is not restarted: whoever holds a dead link starts another."""

    def __init__(self, process: subprocess.Popen[bytes], scratch: str) -> None:
        self._process, self._scratch = process, scratch
        self._ready: asyncio.Future[Described] = asyncio.get_running_loop().create_future()
        self._calls: dict[int, _Call] = {}
        self._received = bytearray()
        self._transport: asyncio.Transport | None = None
        self.about: Described
        self.lost_because = ""
        """Why it is dead; empty while it lives."""

    @classmethod
    async def start(cls, spec: HostSpec, *, load_timeout_s: float) -> "Link":
        """Raises LoadFailed when the environment cannot be loaded in time."""
        loop = asyncio.get_running_loop()
        scratch = tempfile.mkdtemp(prefix="flash-host-")
        ours, theirs = socket.socketpair()
        for end in (ours, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        ours.setblocking(False)
        # Not in a thread: the zygote dies with the thread that started it.
        process = subprocess.Popen(  # noqa: ASYNC220
            [sys.executable, "-I", "-S", "-B", zygote.__file__, str(theirs.fileno()), *_library()],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            pass_fds=(theirs.fileno(),), env=_variables(spec, scratch), cwd="/", start_new_session=True,
        )  # fmt: skip
        theirs.close()
        link = cls(process, scratch)
        await loop.create_connection(lambda: link, sock=ours)
        link._send(_config(spec, scratch))
        try:
            async with asyncio.timeout(load_timeout_s):
                link.about = await asyncio.shield(link._ready)
        except TimeoutError:
            await link.close()
            found = f"load_environment() took longer than {load_timeout_s:g} s"
            raise LoadFailed(Fault(kind="load-failed", message=found)) from None
        except BaseException:
            await link.close()
            raise
        return link

    async def ask(
        self, method: str, args: Mapping[str, Any], on_answer: OnAnswer, *, deadline_s: float, cpu_s: float
    ) -> Ended:
        """Have a fork answer; returns when nothing of it is left. `deadline_s` holds for each answer anew.

        Status `lost`: the zygote died, and this question may or may not be why.
        """
        if self.lost_because:
            return Ended(id=0, status="lost", detail=self.lost_because)
        id = secrets.randbits(62)
        try:
            async with asyncio.timeout(deadline_s + GRACE_S) as patience:
                ended: asyncio.Future[Ended] = asyncio.get_running_loop().create_future()
                self._calls[id] = _Call(on_answer, deadline_s, ended, patience)
                self._send(zygote.Question(id=id, deadline_s=deadline_s, body=_encode([method, args, cpu_s])))
                return await ended
        except TimeoutError:
            self.kill("the host did not enforce its own deadline")
            return Ended(id=id, status="timeout", detail=f"no answer within {deadline_s:g} s")

    def converse(self, method: str, args: Mapping[str, Any], on_answer: OnAnswer, *, cpu_s: float) -> "Talk":
        """Have a fork stay, and answer word after word until it is hung up on."""
        id = secrets.randbits(62)
        ended: asyncio.Future[Ended] = asyncio.get_running_loop().create_future()
        if self.lost_because:
            ended.set_result(Ended(id=id, status="lost", detail=self.lost_because))
        else:
            self._calls[id] = _Call(on_answer, math.inf, ended, None)
            self._send(zygote.Question(id=id, deadline_s=math.inf, body=_encode([method, args, cpu_s])))
        return Talk(self, id, ended)

    def kill(self, because: str) -> None:
        """Take the zygote and everything below it."""
        self.lost_because = self.lost_because or because
        for pid in (*_descendants(self._process.pid), self._process.pid):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)

    async def close(self, grace_s: float = 1.0) -> None:
        """Hang up, so that the zygote clears up and leaves; kill what does not."""
        hung_up = not self.lost_because and self._ready.done()
        self.lost_because = self.lost_because or "closed"
        if self._transport:
            self._transport.close()
        await asyncio.to_thread(self._bury, grace_s if hung_up else 0.0)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        while len(self._received) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._received)
            if length > zygote.FRAME_BYTES:
                self.kill(f"a frame of {length} bytes, at most {zygote.FRAME_BYTES} are taken")
                return
            if len(self._received) < _LENGTH.size + length:
                return
            frame = bytes(self._received[_LENGTH.size : _LENGTH.size + length])
            del self._received[: _LENGTH.size + length]
            try:
                self._heard(_decode(frame))
            except (msgspec.DecodeError, LookupError) as error:
                self.kill(f"a frame that nobody expected: {error}")
                return

    def connection_lost(self, error: Exception | None) -> None:
        self.lost_because = self.lost_because or "the host died"
        if not self._ready.done():
            found = "the process died while it loaded the environment"
            self._ready.set_exception(LoadFailed(Fault(kind="load-failed", message=found)))
            self._ready.exception()  # seen, also where nobody waits any more
        for id, call in self._calls.items():
            if not call.ended.done():
                call.ended.set_result(Ended(id=id, status="lost", detail=self.lost_because))
        self._calls.clear()

    def _heard(self, frame: "_Ready | _Failed | _Answer | Ended") -> None:
        """Raises LookupError for what nobody asked: the zygote ran the author's import, and is not trusted either."""
        match frame:
            case _Ready() if not self._ready.done():
                self._ready.set_result(frame.about)
            case _Failed() if not self._ready.done():
                self._ready.set_exception(LoadFailed(frame.fault, frame.missing))
            case _Answer():
                call = self._calls[frame.id]
                if call.patience and not call.ended.done():
                    call.patience.reschedule(asyncio.get_running_loop().time() + call.deadline_s + GRACE_S)
                if not call.ended.done():
                    call.on_answer(frame.payload, printable(frame.output))
            case Ended():
                call = self._calls.pop(frame.id)
                if not call.ended.done():
                    call.ended.set_result(frame)
            case _:
                raise LookupError(type(frame).__name__)

    def send(self, body: msgspec.Struct) -> None:
        """Nothing is sent to the dead."""
        if not self.lost_because:
            self._send(body)

    def _send(self, body: msgspec.Struct) -> None:
        assert self._transport is not None
        encoded = _encode(body)
        self._transport.write(_LENGTH.pack(len(encoded)) + encoded)

    def _bury(self, grace_s: float) -> None:
        try:
            self._process.wait(grace_s)
        except subprocess.TimeoutExpired:
            self.kill(self.lost_because)
            self._process.wait()
        shutil.rmtree(self._scratch, ignore_errors=True)


@dataclass(eq=False)
class Talk:
    """A fork that stays."""

    link: Link
    id: int
    ended: asyncio.Future[Ended]

    def say(self, *word: Any) -> None:
        self.link.send(zygote.Further(id=self.id, body=_encode(word)))

    async def hang_up(self) -> None:
        """Returns when nothing of the fork is left."""
        if not self.ended.done():
            self.link.send(zygote.Further(id=self.id, body=b""))
        try:
            async with asyncio.timeout(HANG_UP_S):
                await asyncio.shield(self.ended)
        except TimeoutError:
            self.link.kill("the host did not end a fork when it was told to")


def printable(output: bytes) -> str:
    """Captured output for people: control characters (ANSI, BEL, CR) become visible escapes."""
    text = output.decode("utf-8", "backslashreplace")
    return "".join(
        char if char in "\n\t" or char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


def _config(spec: HostSpec, scratch: str) -> zygote.Config:
    return zygote.Config(
        folder=str(spec.folder.resolve()),
        params=dict(spec.params),
        requirements=str(spec.requirements.resolve()) if spec.requirements else "",
        packages=list(dict.fromkeys((sysconfig.get_path("purelib"), sysconfig.get_path("platlib")))),
        scratch=scratch,
        slots=spec.limits.slots,
        episodes=spec.limits.episodes,
        memory_bytes=spec.limits.memory_bytes,
        open_files=spec.limits.open_files,
        file_bytes=spec.limits.file_bytes,
        parent=os.getpid(),
    )


def _variables(spec: HostSpec, scratch: str) -> dict[str, str]:
    return {
        "HOME": scratch,
        "TMPDIR": scratch,
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "LD_BIND_NOW": "1",  # what is bound late is bound anew in each fork; taken away before the author's code
        "MALLOC_ARENA_MAX": "2",  # else each thread's arena takes 64 MiB of the address space
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        **spec.env,
    }


def _library() -> list[str]:
    """Where msgspec and envsdk are; off the path again before the author's code is imported."""
    return list(dict.fromkeys(str(Path(str(module.__file__)).parent.parent) for module in (msgspec, envsdk)))


def _descendants(pid: int) -> list[int]:
    try:
        children = [
            int(child)
            for task in os.listdir(f"/proc/{pid}/task")
            for child in Path(f"/proc/{pid}/task/{task}/children").read_text().split()
        ]
    except OSError:
        return []
    return [found for child in children for found in (*_descendants(child), child)]
