"""Landlock through ctypes: which files a process may touch, and no signals or abstract sockets out of its domain.

Rights by ABI: 1 (Linux 5.13) thirteen of files; 2 (5.19) REFER; 3 (6.2) TRUNCATE; 4 (6.7) TCP ports; 5 (6.10)
IOCTL_DEV; 6 (6.12) the scopes. Unix sockets by path, UDP, memory and the size of a disk are not its business.
Source: Documentation/userspace-api/landlock.rst of the kernel.
"""

import contextlib
import ctypes
import os
import stat
from collections.abc import Iterable

_CREATE, _ADD, _RESTRICT = 444, 445, 446
_VERSION, _PATH_BENEATH, _NET_PORT = 1, 1, 2

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1, 1 << 1, 1 << 2, 1 << 3
MAKE_CHAR, MAKE_BLOCK = 1 << 6, 1 << 11
REFER, TRUNCATE, IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15
_OF_FILES = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV
READ = EXECUTE | READ_FILE | READ_DIR
USE = READ | WRITE_FILE | TRUNCATE
_SCOPES = 0b11
"""No abstract sockets and no signals beyond the domain."""
SCOPED_SINCE = 6
PORTS_SINCE = 4
_BIND, _CONNECT = 1, 2

DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")

_libc = ctypes.CDLL(None, use_errno=True)


def abi() -> int:
    """Which Landlock this kernel has; 0: none."""
    return max(0, int(_libc.syscall(_CREATE, None, ctypes.c_size_t(0), _VERSION)))


def ruleset(readable: Iterable[str], writable: Iterable[str], ports: Iterable[int] | None = None) -> int:
    """A descriptor for `restrict`. What is not there is left out. Raises OSError where there is no Landlock.

    `ports`: those that TCP may connect to, where the kernel can tell; None: not its business.
    """
    version = abi()
    handled = _rights(version)
    tcp = 0 if ports is None or version < PORTS_SINCE else _BIND | _CONNECT
    attributes = [handled, tcp, _SCOPES][: 3 if version >= SCOPED_SINCE else 2 if version >= PORTS_SINCE else 1]
    given = (ctypes.c_uint64 * len(attributes))(*attributes)
    made = int(_libc.syscall(_CREATE, ctypes.byref(given), ctypes.c_size_t(8 * len(attributes)), 0))
    if made < 0:
        raise OSError(ctypes.get_errno(), "landlock_create_ruleset")
    os.set_inheritable(made, False)
    for paths, rights in ((readable, READ), (DEVICES, USE), (writable, handled & ~(MAKE_CHAR | MAKE_BLOCK))):
        for path in paths:
            with contextlib.suppress(FileNotFoundError):
                _allow(made, path, rights & handled)
    for port in ports or () if tcp else ():
        rule = (ctypes.c_uint64 * 2)(_CONNECT, port)
        if _libc.syscall(_ADD, made, _NET_PORT, ctypes.byref(rule), 0):
            raise OSError(ctypes.get_errno(), f"landlock_add_rule for port {port}")
    return made


def restrict(made: int) -> None:
    """This process and all it starts, for ever. Needs `no_new_privs`. Raises OSError."""
    if _libc.syscall(_RESTRICT, made, 0):
        raise OSError(ctypes.get_errno(), "landlock_restrict_self")


def _rights(version: int) -> int:
    rights = (1 << 13) - 1
    for since, right in ((2, REFER), (3, TRUNCATE), (5, IOCTL_DEV)):
        if version >= since:
            rights |= right
    return rights


def _allow(made: int, path: str, rights: int) -> None:
    place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        if not stat.S_ISDIR(os.fstat(place).st_mode):
            rights &= _OF_FILES
        rule = ctypes.create_string_buffer(rights.to_bytes(8, "little") + place.to_bytes(4, "little"), 12)
        if _libc.syscall(_ADD, made, _PATH_BENEATH, rule, 0):
            raise OSError(ctypes.get_errno(), f"landlock_add_rule for {path}")
    finally:
        os.close(place)
