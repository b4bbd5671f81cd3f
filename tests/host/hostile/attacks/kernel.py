"""Asking the kernel for what only root should have, and signalling others."""

import ctypes
import errno
import os
import signal
import struct
import tempfile
import time

from attacks.calls import MACHINE, checked, libc, syscall


def trace_a_victim(world):
    libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    checked(libc.ptrace(0x4206, world["victim"], None, None))  # SEIZE stops nobody
    libc.ptrace(17, world["victim"], None, None)
    return "traced"


def read_from_a_victim(world):
    with open(f"/proc/{world['victim']}/maps") as maps:
        start = int(maps.readline().split("-")[0], 16)
    here = ctypes.create_string_buffer(4)
    vectors = [struct.pack("QQ", ctypes.addressof(here), 4), struct.pack("QQ", start, 4)]
    held = [ctypes.create_string_buffer(vector) for vector in vectors]
    syscall((310, 270), world["victim"], held[0], 1, held[1], 1, 0)
    return here.raw.hex()


def make_a_user_namespace(world):
    checked(libc.unshare(0x10000000))
    return "made"


def mount_something(world):
    folder = tempfile.mkdtemp()
    checked(libc.unshare(0x00020000))
    checked(libc.mount(None, b"/", None, 0x44000, None))
    checked(libc.mount(b"none", folder.encode(), b"tmpfs", 0, None))
    return "mounted"


def change_the_root(world):
    os.chroot("/")
    return "changed"


def keep_a_key(world):
    return syscall((248, 217), b"user", b"flash-hostile", b"x", 1, -3)


def make_a_map_of_bpf(world):
    attributes = ctypes.create_string_buffer(struct.pack("IIIII", 2, 4, 4, 1, 0), 72)
    return syscall((321, 280), 0, attributes, 72)


def set_up_io_uring(world):
    return syscall((425, 425), 4, ctypes.create_string_buffer(120))


def count_the_machines_events(world):
    attributes = ctypes.create_string_buffer(struct.pack("IIQ", 1, 120, 0), 120)
    return syscall((298, 241), attributes, 0, -1, -1, 0)


def handle_ones_own_faults(world):
    return syscall((323, 282), 0)


def become_root(world):
    os.setresuid(0, 0, 0)
    with open("/proc/1/environ"):
        return "root"


def change_personality(world):
    syscall((135, 92), 0x0040000)
    return "changed"


def read_the_kernels_log(world):
    return checked(libc.klogctl(3, ctypes.create_string_buffer(4096), 4096)) and "read"


def open_by_handle(world):
    handle = ctypes.create_string_buffer(struct.pack("II", 128, 0), 136)
    mount = ctypes.c_int()
    syscall((303, 264), -100, b"/usr", handle, ctypes.byref(mount), 0)
    return handle.raw[:8].hex()


def use_the_old_gate(world):
    """The system calls of another architecture, which a filter might forget; in a child, since the answer is death."""
    if MACHINE:
        raise OSError("of x86-64 only")
    pid = os.fork()
    if pid == 0:
        ctypes.set_errno(0)
        libc.syscall(ctypes.c_long(0x40000000 + 39))
        os._exit(0 if ctypes.get_errno() != errno.EPERM else 1)
    return "passed" if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0 else None


def kill_a_victim(world):
    os.kill(world["victim"], signal.SIGKILL)
    return "sent"


def kill_the_service(world):
    os.kill(world["service"], signal.SIGUSR1)
    return "sent"


def kill_ones_parent(world):
    os.kill(os.getppid(), signal.SIGKILL)
    return "sent"


def stop_ones_parent(world):
    os.kill(os.getppid(), signal.SIGSTOP)
    time.sleep(0.2)
    return "sent"
