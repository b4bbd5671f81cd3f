"""Our end of a zygote: starting it, its frames, the later deadline, and the certainty that it is gone."""

import asyncio
import math
import secrets
import socket
import struct
import subprocess
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import msgspec

from flash.contracts.values import Example, Fault, FaultKind, Metric, Verdict
from flash.host.child.frames import FRAME_BYTES, SPARES, VERSION, Config, Further, Question
from flash.host.launching import VARIABLES, launched, library, packages
from flash.host.sandbox import EGRESS_SOCKET, LOOPBACK, Bounds, Cell, Egress, chosen, private_bytes
from flash.host.sandbox.destinations import chosen as chosen_address
from flash.host.sandbox.destinations import operator, parsed
from flash.host.spec import Described, HostSpec, LoadFailed
from flash.redaction import Masks

GRACE_S = 3.0
"""How much later than the zygote we lose patience, and then it is the zygote that dies."""
HANG_UP_S = 10.0
"""How long the zygote may take to end a fork that stays: others live in it, so it is not killed lightly."""

_WORDS = " ".join(
    (
        *(name for kind in (Described, Verdict, Metric, Fault, Example) for name in kind.__struct_fields__),
        *get_args(FaultKind),
        "assistant system content messages answer failed timeout oversize memory",
    )
)
"""What frames are made of. A secret that is part of it is none, and to mask it would spoil every frame."""
_THREADS_A_FORK = 17
_WATCHED_S = 0.1
"""How often the memory of a host without a cgroup is counted while something is worked at; else ten times as seldom."""

_LENGTH = struct.Struct("<I")
_encode = msgspec.msgpack.Encoder().encode


class Ended(msgspec.Struct, frozen=True, array_like=True, tag="ended"):
    """Nothing is left of the fork that worked at a question."""

    id: int
    status: Literal["ok", "timeout", "cpu", "crash", "exit", "oversize", "memory", "lost"]
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

    def wait_anew(self) -> None:
        """It has answered. To move the deadline costs more than to find that it is far off."""
        now, until = asyncio.get_running_loop().time(), self.deadline_s + GRACE_S
        if self.patience and (self.patience.when() or 0.0) < now + until - GRACE_S / 2:
            self.patience.reschedule(now + until)


class Link(asyncio.Protocol):
    """One zygote and the questions it works at. It is not restarted: whoever holds a dead link starts another."""

    def __init__(
        self, process: subprocess.Popen[bytes], cell: Cell, egress: Egress | None, secrets: Iterable[str] = ()
    ) -> None:
        self._process, self._cell, self._egress = process, cell, egress
        self._masks = Masks(secrets)
        self._ready: asyncio.Future[Described] = asyncio.get_running_loop().create_future()
        self._calls: dict[int, _Call] = {}
        self._received = bytearray()
        self._transport: asyncio.Transport | None = None
        self._watching: asyncio.Task[None] | None = None
        self._killed_for_memory = 0
        self.about: Described
        self.lost_because = ""
        """Why it is dead; empty while it lives."""

    @classmethod
    async def start(cls, spec: HostSpec, *, load_timeout_s: float) -> "Link":
        """Raises LoadFailed when the environment cannot be loaded in time."""
        loop = asyncio.get_running_loop()
        cell = _cell(spec)
        ours, theirs = socket.socketpair()
        for end in (ours, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        ours.setblocking(False)
        egress = await _egress(spec, cell)
        arguments, socket_there = launched("starting", theirs.fileno()), cell.egress_path if egress else ""
        process = cell.spawn(arguments, theirs.fileno(), VARIABLES, socket_there)
        theirs.close()
        link = cls(process, cell, egress, [value for value in spec.secrets.values() if value not in _WORDS])
        await loop.create_connection(lambda: link, sock=ours)
        link._send(_config(spec, cell, egress is not None))
        if cell.is_watched:
            link._watching = loop.create_task(link._watch())
        try:
            async with asyncio.timeout(load_timeout_s):
                link.about = await asyncio.shield(link._ready)
            cell.settled()
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
                self._send(Question(id=id, deadline_s=deadline_s, body=_encode([method, args, cpu_s])))
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
            self._send(Question(id=id, deadline_s=math.inf, body=_encode([method, args, cpu_s])))
        return Talk(self, id, ended)

    def private_bytes(self) -> int:
        """Memory that its processes take for themselves."""
        return private_bytes(self._process.pid)

    def kill(self, because: str) -> None:
        """Take the zygote and everything below it."""
        self.lost_because = self.lost_because or because
        self._cell.kill()

    async def close(self, grace_s: float = 1.0) -> None:
        """Hang up, so that the zygote clears up and leaves; kill what does not."""
        hung_up = not self.lost_because and self._ready.done()
        self.lost_because = self.lost_because or "closed"
        if self._transport:
            self._transport.close()
        if self._watching:
            self._watching.cancel()
        if self._egress:
            await self._egress.close()
        await asyncio.to_thread(self._bury, grace_s if hung_up else 0.0)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        while len(self._received) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._received)
            if length > FRAME_BYTES:
                self.kill(f"a frame of {length} bytes, at most {FRAME_BYTES} are taken")
                return
            if len(self._received) < _LENGTH.size + length:
                return
            frame = bytes(self._received[_LENGTH.size : _LENGTH.size + length])
            del self._received[: _LENGTH.size + length]
            frame = self._masks.over(frame)
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
            case _Answer():
                call = self._calls[frame.id]
                if not call.ended.done():
                    call.wait_anew()
                    call.on_answer(frame.payload, printable(self._masks.at_the_ends(frame.output)))
            case Ended():
                call = self._calls.pop(frame.id)
                if frame.output:
                    frame = msgspec.structs.replace(frame, output=self._masks.at_the_ends(frame.output))
                if not call.ended.done():
                    call.ended.set_result(self._explained(frame))
            case _Ready() if not self._ready.done():
                self._ready.set_result(frame.about)
            case _Failed() if not self._ready.done():
                self._ready.set_exception(LoadFailed(frame.fault, frame.missing))
            case _:
                raise LookupError(type(frame).__name__)

    def _explained(self, ended: Ended) -> Ended:
        """Whether it was the kernel that killed the fork, for the memory of the whole host."""
        if ended.status != "crash" or (killed := self._cell.killed_for_memory()) <= self._killed_for_memory:
            return ended
        self._killed_for_memory = killed
        detail = f"the host's processes took more than {self._cell.bounds.memory_bytes >> 20} MiB together"
        return msgspec.structs.replace(ended, status="memory", detail=detail)

    async def _watch(self) -> None:
        """In place of a cgroup."""
        most = self._cell.bounds.memory_bytes
        while not self.lost_because:
            await asyncio.sleep(_WATCHED_S if self._calls or not self._ready.done() else 10 * _WATCHED_S)
            if private_bytes(self._process.pid) > most:
                self.kill(f"the host's processes took more than {most >> 20} MiB together")

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
        self._cell.close()


@dataclass(eq=False)
class Talk:
    """A fork that stays."""

    link: Link
    id: int
    ended: asyncio.Future[Ended]

    def say(self, *word: Any) -> None:
        self.link.send(Further(id=self.id, body=_encode(word)))

    async def hang_up(self) -> None:
        """Returns when nothing of the fork is left."""
        if not self.ended.done():
            self.link.send(Further(id=self.id, body=b""))
        try:
            async with asyncio.timeout(HANG_UP_S):
                await asyncio.shield(self.ended)
        except TimeoutError:
            self.link.kill("the host did not end a fork when it was told to")


def printable(output: bytes) -> str:
    """Captured output for people: control characters (ANSI, BEL, CR) become visible escapes."""
    if not output:
        return ""
    text = output.decode("utf-8", "backslashreplace")
    return "".join(
        char if char in "\n\t" or char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


def _cell(spec: HostSpec) -> Cell:
    limits = spec.limits
    forks = limits.slots + limits.episodes + SPARES
    bounds = Bounds(
        memory_bytes=limits.host_bytes,
        scratch_bytes=limits.scratch_bytes,
        slots=limits.slots + SPARES,
        processes=limits.processes,
        most_processes=limits.processes + forks * _THREADS_A_FORK,
        open_files=max(limits.open_files, 64 + 4 * forks),
        file_bytes=limits.file_bytes,
    )
    readable = library() + packages()
    if spec.requirements:
        readable.append(str(spec.requirements.resolve()))
    return Cell.make(spec.layers or chosen(), bounds, folder=spec.folder, readable=readable)


def _config(spec: HostSpec, cell: Cell, has_egress: bool) -> Config:
    return Config(
        version=VERSION,
        folder=str(cell.folder),
        params=dict(spec.params),
        variables={**spec.env, **spec.secrets},
        requirements=str(spec.requirements.resolve()) if spec.requirements else "",
        packages=packages(),
        scratch=cell.scratch,
        slots=spec.limits.slots,
        episodes=spec.limits.episodes,
        memory_bytes=spec.limits.memory_bytes,
        open_files=spec.limits.open_files,
        parent=cell.parent,
        confinement=cell.confinement(),
        network=list(spec.network),
        egress_socket=EGRESS_SOCKET if has_egress else "",
        loopback_ports=[port for host, port in map(parsed, spec.network) if host in LOOPBACK and port],
    )


async def _egress(spec: HostSpec, cell: Cell) -> Egress | None:
    """None: nothing is declared, or there are no walls to go out of. Raises LoadFailed."""
    if not spec.network or cell.layers.walls == "none":
        return None
    if cell.layers.walls == "landlock":
        found = (
            f"environment.network names {', '.join(spec.network)}, but on this machine nothing can be reached from a "
            "host: `flash doctor` says which layer that needs"
        )
        cell.close()
        raise LoadFailed(Fault(kind="load-failed", message=found))
    chooses = partial(chosen_address, spec.network, allows=operator())
    return await Egress.open(Path(cell.egress_path), chooses, uid=cell.uid, tell=spec.tell)
