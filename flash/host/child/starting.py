"""What the child does before it serves: it shuts itself in, loads the environment, and says what it is."""

import contextlib
import ctypes
import gc
import os
import resource
import site
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import msgspec

from envsdk import dialects
from envsdk.faults import fault, missing_need
from envsdk.hosted import Hosted

from .answering import rehearse
from .confinement import Views, limit, lock_down, outlive_nobody
from .frames import SPARES, VERSION, Config, encode, framed, read_frame
from .relay import VARIABLES, Relay, explain_refusals
from .zygote import Zygote

_MOST_THREADS = 1_024
"""Of an author who asks for more at once, this many may really be there."""


def main() -> NoReturn:
    channel = socket.socket(fileno=int(sys.argv[1]))
    channel.set_inheritable(False)
    config = msgspec.msgpack.decode(read_frame(channel), type=Config)
    try:
        zygote, about = _begun(channel, config)
    except BaseException as error:
        folder = Path(config.folder)
        body = encode(["failed", fault(error, folder, kind="load-failed"), missing_need(error, folder)])
        channel.sendall(framed(body))
        os._exit(1)
    gc.collect()
    gc.freeze()
    with contextlib.suppress(AttributeError):  # of another C library
        ctypes.CDLL(None).malloc_trim(0)  # what malloc keeps for later is in each fork's page tables
    zygote.tell("ready", about)
    zygote.flush()
    zygote.run()


def _begun(channel: socket.socket, config: Config) -> tuple[Zygote, dict[str, Any]]:
    if config.version != VERSION:
        raise ValueError(f"the parent speaks version {config.version} of the host's protocol, this is {VERSION}")
    views = _shut_in(channel, config)
    relay = Relay(config.egress_socket, config.loopback_ports) if config.egress_socket else None
    if config.confinement.seccomp:
        explain_refusals(config.network)
    loaded = outlive_nobody(config.parent)  # until we listen, nobody notices otherwise
    hosted = _load(config)
    loaded()
    about = hosted.about()
    slots = max(1, min(config.slots, about["max_score_concurrency"]))
    slots += config.episodes if about["multi_turn"] else 0
    _limit_processes(config, about, slots)
    zygote = Zygote(channel, hosted, config, slots + SPARES, views, relay)
    rehearse(zygote.slots[0])
    return zygote, {**about, "slots": slots}


def _shut_in(channel: socket.socket, config: Config) -> Views:
    views = lock_down(config.confinement, keep=channel.fileno(), parent=config.parent, scratch=config.scratch)
    loaded = f"{config.scratch}/loaded"
    os.mkdir(loaded, 0o700)
    os.environ.update({**(VARIABLES if config.egress_socket else {}), **config.variables})
    os.environ["HOME"] = os.environ["TMPDIR"] = loaded
    return views


def _limit_processes(config: Config, about: Mapping[str, Any], slots: int) -> None:
    """Now that it is known how many threads the environment may want."""
    if config.confinement.processes and not about["multi_turn"]:
        wanted = slots + max(slots, min(about["max_score_concurrency"], _MOST_THREADS))
        limit(resource.RLIMIT_NPROC, config.confinement.processes + wanted)


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
    site.setquit()  # `exit` and `quit`, which `-S` leaves out
    dialects.install()
    os.chdir(config.folder)
    return Hosted.load(Path(config.folder), config.params)
