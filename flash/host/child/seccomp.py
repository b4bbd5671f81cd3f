"""A seccomp filter in classic BPF, for x86-64 and aarch64: system calls that no environment needs are refused.

A denylist, since author code is all of Python's ecosystem; the namespaces, Landlock and the limits bound what is left.
A foreign architecture, and x32, is killed. Numbers come from the kernel's tables.
"""

import ctypes
import errno
import os
import platform
import signal
import struct
from collections.abc import Iterable
from typing import Literal

Sockets = Literal["isolated", "internet", "none"]
"""`isolated`: the usual families, where there is a network namespace to be alone in; `internet`: those without unix
sockets; `none`: no socket at all."""

_ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
"""By machine: the column in `_NUMBERS`, and what the kernel calls it (AUDIT_ARCH)."""

# name: (x86-64, aarch64); None where it does not exist
_TRACING = {
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271),
    "process_madvise": (440, 440), "pidfd_getfd": (438, 438), "kcmp": (312, 272),
}  # fmt: skip
_MOUNTS = {
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51), "fsopen": (430, 430),
    "fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433), "open_tree": (428, 428),
    "open_tree_attr": (467, 467), "move_mount": (429, 429), "mount_setattr": (442, 442), "unshare": (272, 97),
    "setns": (308, 268), "open_by_handle_at": (304, 265), "name_to_handle_at": (303, 264), "fanotify_init": (300, 262),
}  # fmt: skip
_KERNEL = {
    "keyctl": (250, 219), "add_key": (248, 217), "request_key": (249, 218), "bpf": (321, 280),
    "perf_event_open": (298, 241), "userfaultfd": (323, 282), "init_module": (175, 105), "finit_module": (313, 273),
    "delete_module": (176, 106), "kexec_load": (246, 104), "kexec_file_load": (320, 294), "reboot": (169, 142),
    "swapon": (167, 224), "swapoff": (168, 225), "acct": (163, 89), "quotactl": (179, 60), "quotactl_fd": (443, 443),
    "settimeofday": (164, 170), "clock_settime": (227, 112), "clock_adjtime": (305, 266), "adjtimex": (159, 171),
    "sethostname": (170, 161), "setdomainname": (171, 162), "vhangup": (153, 58), "syslog": (103, 116),
    "lookup_dcookie": (212, 18), "iopl": (172, None), "ioperm": (173, None), "modify_ldt": (154, None),
    "personality": (135, 92), "memfd_secret": (447, 447), "move_pages": (279, 239), "migrate_pages": (256, 238),
    "nfsservctl": (180, 42), "uselib": (134, None), "ustat": (136, None), "sysfs": (139, None),
}  # fmt: skip
_SHARED_MEMORY = {
    "memfd_create": (319, 279), "shmget": (29, 194), "msgget": (68, 186), "semget": (64, 190), "mq_open": (240, 180),
}  # fmt: skip
_ABSENT = {
    "clone3": (435, 435), "io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427),
}  # fmt: skip
"""Told to be unknown to this kernel, so that libraries fall back to what can be looked into."""
_CLONE, _IOCTL, _PRCTL, _SOCKET, _SOCKETPAIR = (56, 220), (16, 29), (157, 167), (41, 198), (53, 199)
_SECCOMP, _GET_ACTION_AVAIL = (317, 277), 2

_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_LOAD, _IS, _AT_LEAST, _HAS, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCHITECTURE, _FIRST, _SECOND, _THIRD = 0, 4, 16, 24, 32
"""Where the kernel shows the call: its number, its architecture, the low halves of its arguments."""
_X32 = 0x40000000
_NEW_NAMESPACES = 0x7E020000
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C
_SET_DEATH_SIGNAL = 1
_UNIX, _INET, _INET6, _NETLINK = 1, 2, 10, 16
_NO_NEW_PRIVS, _SET_SECCOMP, _FILTER = 38, 22, 2

_Instruction = tuple[int, int, int, int]
"""Operation, instructions to skip where it holds and where it does not, operand."""


def supported() -> bool:
    """There are numbers for this machine, and its kernel takes filters."""
    if platform.machine() not in _ARCHITECTURES:
        return False
    call, action = _SECCOMP[_ARCHITECTURES[platform.machine()][0]], ctypes.c_uint32(_ALLOW)
    return bool(ctypes.CDLL(None).syscall(call, _GET_ACTION_AVAIL, 0, ctypes.byref(action)) == 0)


def program(*, sockets: Sockets, shared_memory: bool, machine: str | None = None) -> bytes:
    """The filter. Without `shared_memory`, memory that no limit would see is refused as well."""
    column, architecture = _ARCHITECTURES[machine or platform.machine()]
    denied = {**_TRACING, **_MOUNTS, **_KERNEL, **({} if shared_memory else _SHARED_MEMORY)}
    lines: list[_Instruction] = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_IS, 1, 0, architecture),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER),
    ]
    if column == 0:
        lines += [(_AT_LEAST, 0, 1, _X32), (_RETURN, 0, 0, _KILL)]
    lines += _refused((numbers[column] for numbers in denied.values()), errno.EPERM)
    lines += _refused((numbers[column] for numbers in _ABSENT.values()), errno.ENOSYS)
    for call, body in (
        (_CLONE, _without_new_namespaces()),
        (_IOCTL, _without_typing_for_others()),
        (_PRCTL, _with_death_signal_kept()),
        (_SOCKET, _families(sockets)),
        (_SOCKETPAIR, _only(_UNIX)),
    ):
        lines += [(_IS, 0, len(body), call[column]), *body]
    lines.append((_RETURN, 0, 0, _ALLOW))
    return b"".join(struct.pack("HBBI", *line) for line in lines)


def install(filter: bytes) -> None:
    """For this process and all it starts, for ever. Raises OSError."""

    class Program(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]

    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_NO_NEW_PRIVS, 1, 0, 0, 0)
    held = ctypes.create_string_buffer(filter, len(filter))
    given = Program(len(filter) // struct.calcsize("HBBI"), ctypes.cast(held, ctypes.c_void_p))
    if libc.prctl(_SET_SECCOMP, _FILTER, ctypes.byref(given), 0, 0):
        raise OSError(ctypes.get_errno(), f"the seccomp filter is refused: {os.strerror(ctypes.get_errno())}")


def _refused(numbers: Iterable[int | None], error: int) -> list[_Instruction]:
    lines: list[_Instruction] = []
    for number in numbers:
        if number is not None:
            lines += [(_IS, 0, 1, number), (_RETURN, 0, 0, _ERRNO | error)]
    return lines


def _without_new_namespaces() -> list[_Instruction]:
    return [
        (_LOAD, 0, 0, _FIRST),
        (_HAS, 0, 1, _NEW_NAMESPACES),
        (_RETURN, 0, 0, _ERRNO | errno.EPERM),
        (_RETURN, 0, 0, _ALLOW),
    ]


def _without_typing_for_others() -> list[_Instruction]:
    return [
        (_LOAD, 0, 0, _SECOND),
        (_IS, 1, 0, _TIOCSTI),
        (_IS, 0, 1, _TIOCLINUX),
        (_RETURN, 0, 0, _ERRNO | errno.EPERM),
        (_RETURN, 0, 0, _ALLOW),
    ]


def _with_death_signal_kept() -> list[_Instruction]:
    """Nobody may survive its parent: the death signal can be set to SIGKILL and to nothing else."""
    return [
        (_LOAD, 0, 0, _FIRST),
        (_IS, 0, 3, _SET_DEATH_SIGNAL),
        (_LOAD, 0, 0, _SECOND),
        (_IS, 1, 0, signal.SIGKILL),
        (_RETURN, 0, 0, _ERRNO | errno.EPERM),
        (_RETURN, 0, 0, _ALLOW),
    ]


def _families(sockets: Sockets) -> list[_Instruction]:
    if sockets == "none":
        return [(_RETURN, 0, 0, _ERRNO | errno.EACCES)]
    of_netlink = [
        (_LOAD, 0, 0, _FIRST),
        (_IS, 0, 4, _NETLINK),
        (_LOAD, 0, 0, _THIRD),
        (_IS, 0, 1, 0),  # NETLINK_ROUTE, which getaddrinfo asks for the addresses there are
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _ERRNO | errno.EACCES),
    ]
    return [*of_netlink, *_only(*([_UNIX] if sockets == "isolated" else []), _INET, _INET6)]


def _only(*families: int) -> list[_Instruction]:
    lines: list[_Instruction] = [(_LOAD, 0, 0, _FIRST)]
    lines += [(_IS, len(families) - at, 0, family) for at, family in enumerate(families)]
    return [*lines, (_RETURN, 0, 0, _ERRNO | errno.EACCES), (_RETURN, 0, 0, _ALLOW)]
