"""The filter, worked through by a small interpreter of its own for both machines, and asked of this kernel."""

import errno
import os
import signal
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from flash.host.child import seccomp

MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
ALLOW, KILL = 0x7FFF0000, 0x80000000
EPERM, EACCES, ENOSYS = (0x00050000 | number for number in (errno.EPERM, errno.EACCES, errno.ENOSYS))

TRACE = {"x86_64": 101, "aarch64": 117}.get(os.uname().machine)

linux = pytest.mark.skipif(sys.platform != "linux", reason="seccomp is Linux's")


def verdict(program: bytes, number: int, *args: int, architecture: int) -> int:
    """What the kernel would do, by the rules of classic BPF."""
    seen = struct.pack("<IIQ6Q", number, architecture, 0, *args, *[0] * (6 - len(args)))
    lines = [struct.unpack_from("HBBI", program, at) for at in range(0, len(program), 8)]
    at = accumulator = 0
    while True:
        operation, holds, fails, operand = lines[at]
        at += 1
        match operation:
            case 0x20:
                (accumulator,) = struct.unpack_from("<I", seen, operand)
            case 0x15:
                at += holds if accumulator == operand else fails
            case 0x35:
                at += holds if accumulator >= operand else fails
            case 0x45:
                at += holds if accumulator & operand else fails
            case 0x06:
                return operand


CALLS = [  # numbers on x86-64 and aarch64, arguments, what becomes of it
    ("ptrace", (101, 117), (0,), EPERM),
    ("mount", (165, 40), (), EPERM),
    ("keyctl", (250, 219), (), EPERM),
    ("bpf", (321, 280), (), EPERM),
    ("io_uring_setup", (425, 425), (), ENOSYS),
    ("clone3", (435, 435), (), ENOSYS),
    ("clone for a thread", (56, 220), (0x3D0F00,), ALLOW),
    ("clone into a user namespace", (56, 220), (0x10000000,), EPERM),
    ("read", (0, 63), (), ALLOW),
    ("a TCP socket", (41, 198), (2, 1, 0), ALLOW),
    ("a unix socket", (41, 198), (1, 1, 0), ALLOW),
    ("a packet socket", (41, 198), (17, 3, 0), EACCES),
    ("a vsock", (41, 198), (40, 1, 0), EACCES),
    ("netlink's routes", (41, 198), (16, 3, 0), ALLOW),
    ("netlink's audit", (41, 198), (16, 3, 9), EACCES),
    ("a socket pair", (53, 199), (1, 1, 0), ALLOW),
    ("a socket pair of TIPC", (53, 199), (30, 1, 0), EACCES),
    ("an ioctl", (16, 29), (0, 0x5401), ALLOW),
    ("typing for others", (16, 29), (0, 0x5412), EPERM),
    ("typing for the console", (16, 29), (0, 0x541C), EPERM),
    ("dying with one's parent", (157, 167), (1, signal.SIGKILL), ALLOW),
    ("outliving one's parent", (157, 167), (1, 0), EPERM),
    ("being named", (157, 167), (15, 0), ALLOW),
]


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize(("call", "numbers", "args", "wanted"), CALLS)
def test_each_call_meets_its_rule(
    machine: str, call: str, numbers: tuple[int, int], args: tuple[int, ...], wanted: int
) -> None:
    column, architecture = MACHINES[machine]
    program = seccomp.program(sockets="isolated", shared_memory=True, machine=machine)

    assert verdict(program, numbers[column], *args, architecture=architecture) == wanted, call


@pytest.mark.parametrize("machine", MACHINES)
def test_without_a_network_namespace_there_is_no_socket_but_a_pair(machine: str) -> None:
    column, architecture = MACHINES[machine]
    program = seccomp.program(sockets="none", shared_memory=False, machine=machine)

    for family in range(46):
        assert verdict(program, (41, 198)[column], family, 1, 0, architecture=architecture) == EACCES
    assert verdict(program, (53, 199)[column], 1, 1, 0, architecture=architecture) == ALLOW
    assert verdict(program, (319, 279)[column], architecture=architecture) == EPERM


def test_a_foreign_architecture_and_x32_are_killed() -> None:
    program = seccomp.program(sockets="isolated", shared_memory=True, machine="x86_64")

    assert verdict(program, 0, architecture=0x40000003) == KILL
    assert verdict(program, 0x40000000, architecture=MACHINES["x86_64"][1]) == KILL


@linux
def test_this_kernel_keeps_to_it() -> None:
    """In a process of its own: a filter stays for ever."""
    code = (
        f"import ctypes, os, socket, sys; sys.path.insert(0, {str(Path(seccomp.__file__).parent)!r})\n"
        "import seccomp\n"
        "seccomp.install(seccomp.program(sockets='none', shared_memory=False))\n"
        f"print(ctypes.CDLL(None, use_errno=True).syscall({TRACE}, 16, 0), ctypes.get_errno())\n"
        "try: socket.socket()\n"
        "except PermissionError: print('no socket')\n"
        "left, right = socket.socketpair(); left.send(b'x'); print(right.recv(1))\n"
        "print(os.waitstatus_to_exitcode(os.wait()[1]) if os.fork() else os._exit(7))\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20, check=True)

    assert ended.stdout.split("\n") == [f"-1 {errno.EPERM}", "no socket", "b'x'", "7", ""]
