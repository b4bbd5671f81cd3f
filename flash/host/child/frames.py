"""What goes over the channels: u32 little-endian length, then MessagePack. A page of docs/ tells it to people.

    in    Config once, then Question after Question, and Words for the forks that play episodes
    out   ["ready", about] or ["failed", fault, missing] once; then ["answer", id, payload, output] as a fork tells
          it, and ["ended", id, status, detail, output, busy_us, max_rss_kb] when nothing of the fork is left

A fork reads one question and writes answers: u32 length, u32 bytes it has printed so far, payload. Length 0: no more,
and the microseconds that the answers took, added up.
"""

import os
import socket
import struct
from typing import Any

import msgspec

from .confinement import Confinement

VERSION = 1
"""Of all this: parent and child are of the same one, or nothing is loaded."""
LENGTH = struct.Struct("<I")
HEAD = struct.Struct("<II")
FRAME_BYTES = 8 << 20
ANSWER_BYTES = 1 << 20
OUTPUT_BYTES = 64 << 10
"""How much of what one answer printed is kept."""
OUT_OF_REACH = "is out of reach"
"""Said of a place that the environment may not connect to."""
SPARES = 8
"""Forks made ahead, so that no question waits for one; several at a time, for each time costs the zygote a fault on
every page that it writes on."""

encode = msgspec.msgpack.Encoder().encode


class Config(msgspec.Struct):
    """What to load, and what its forks may use."""

    version: int
    folder: str
    params: dict[str, Any]
    variables: dict[str, str]
    """The environment variables that the run declares."""
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
    parent: int
    """Our parent's process id: when it is another, the parent has died. 0: it is beyond our namespace."""
    confinement: Confinement
    network: list[str] = []
    """What the run declares, for what is said to whoever goes elsewhere."""
    egress_socket: str = ""
    """Where the proxy listens; empty: there is no way out."""
    loopback_ports: list[int] = []
    """Those of the declared places that are this machine's own."""


class Install(msgspec.Struct):
    """A program to be run within walls of its own. It is answered twice: with None when it begins, and with the
    program's exit status when nothing is left of it and of all that it has started."""

    version: int
    command: list[str]
    variables: dict[str, str]
    folder: str
    """Where it works."""
    parent: int
    """As in Config."""
    confinement: Confinement
    egress_socket: str = ""
    alone: bool = False
    """The way out is for the program itself, and not for what it starts."""


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


decode = msgspec.msgpack.Decoder(Question | Further).decode


def framed(body: bytes) -> bytes:
    return LENGTH.pack(len(body)) + body


def take_frame(received: bytearray) -> bytes | None:
    """The first whole frame, taken off; None where there is none yet."""
    if len(received) < LENGTH.size:
        return None
    (length,) = LENGTH.unpack_from(received)
    if len(received) < LENGTH.size + length:
        return None
    frame = bytes(received[LENGTH.size : LENGTH.size + length])
    del received[: LENGTH.size + length]
    return frame


def read_frame(channel: socket.socket) -> bytes:
    """Ends the process when whoever was to write has gone."""
    (length,) = LENGTH.unpack(_read_exactly(channel, LENGTH.size))
    return _read_exactly(channel, length)


def _read_exactly(channel: socket.socket, num_bytes: int) -> bytes:
    parts = []
    while num_bytes:
        part = channel.recv(min(num_bytes, 1 << 20))
        if not part:
            os._exit(0)
        parts.append(part)
        num_bytes -= len(part)
    return b"".join(parts)
