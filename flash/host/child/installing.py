"""What the child does where a requirement set is installed: it shuts itself in, runs the installer, and clears up all
that this has left. It runs no code of a package itself; whoever has started it may hang up at any time.
"""

import contextlib
import os
import select
import signal
import socket
import sys
from typing import NoReturn

import msgspec

from . import seccomp
from .confinement import Fence, Views, lock_down
from .frames import VERSION, Install, encode, framed, read_frame
from .relay import VARIABLES, Relay
from .strays import kill, sweep

_LOOKED_S = 0.02
_NOT_STARTED = 127


def main() -> NoReturn:
    channel = socket.socket(fileno=int(sys.argv[1]))
    channel.set_inheritable(False)
    install = msgspec.msgpack.decode(read_frame(channel), type=Install)
    if install.version != VERSION:
        raise ValueError(f"the parent speaks version {install.version} of the host's protocol, this is {VERSION}")
    views = lock_down(install.confinement, keep=channel.fileno(), parent=install.parent, scratch=install.folder)
    if install.egress_socket:
        install.variables.update(VARIABLES, NO_PROXY="", no_proxy="")  # an index on this machine is out there too
    fence = Fence(install.confinement, install.folder, install.folder)
    may_begin, begin = os.pipe()
    program = os.fork()
    if program == 0:
        os.close(begin)
        os.read(may_begin, 1)
        _become(install, fence)
    if install.egress_socket:
        Relay(install.egress_socket, (), only=program if install.alone else 0)
    os.write(begin, b"!")
    for end in (begin, may_begin):
        os.close(end)
    channel.sendall(framed(encode(None)))
    status = _ended(program, channel)
    _clear(program, views)
    if status is not None:
        channel.sendall(framed(encode(status)))
    os._exit(0)


def _become(install: Install, fence: Fence) -> NoReturn:
    try:
        os.setsid()
        os.umask(0o022)
        fence.enter()
        if install.alone:  # past the relay, the proxy's own socket is not to be reached either
            seccomp.install(seccomp.program(sockets="internet", shared_memory=install.confinement.shared_memory))
        os.chdir(install.folder)
        os.execve(install.command[0], install.command, install.variables)
    except BaseException as error:
        os.write(2, f"{install.command[0]} cannot be started: {error}\n".encode())
    finally:
        os._exit(_NOT_STARTED)


def _ended(program: int, channel: socket.socket) -> int | None:
    """The program's exit status; None: nobody wants to know any more."""
    while True:
        found, status = os.waitpid(-1, os.WNOHANG)
        if found == program:
            return os.waitstatus_to_exitcode(status)
        if not found and select.select([channel], [], [], _LOOKED_S)[0]:
            return None


def _clear(program: int, views: Views) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(program, signal.SIGKILL)
    if os.getpid() == 1:
        kill(-1)
        _reap_all(0)
    elif views.children is not None:
        sweep(views.children, frozenset, lambda: _reap_all(os.WNOHANG))


def _reap_all(options: int) -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, options)[0]:
            pass
