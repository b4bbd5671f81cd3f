"""A Linux interpreter from which is hidden what macOS has not. Run as a script it becomes one, and then

    python hidden.py -m MODULE ARGUMENT...     runs a module
    python ... hidden.py SCRIPT ARGUMENT...    runs a script, as the child of a host is

What the system itself does is Linux's all the same: this shows that the code asks for nothing that is missing, not how
macOS behaves.
"""

import builtins
import ctypes
import io
import os
import resource
import runpy
import select
import signal
import sys
import sysconfig
import types
from typing import Any

ONLY_LINUX = {
    os: (
        "O_PATH", "memfd_create", "pidfd_open", "eventfd", "sched_getaffinity", "sched_setaffinity", "setresuid",
        "setresgid", "getresuid", "getresgid", "splice", "unshare", "setns", "posix_fadvise", "posix_fallocate",
    ),
    signal: ("pidfd_send_signal", "sigtimedwait", "sigwaitinfo"),
    resource: ("RLIMIT_MSGQUEUE", "RLIMIT_RTPRIO", "RLIMIT_NICE", "RLIMIT_SIGPENDING", "RLIMIT_OFILE", "prlimit"),
    select: [name for name in dir(select) if "epoll" in name.lower()],
}  # fmt: skip
OURS = "/flash/host/"


class Library:
    """The C library, without the calls that are the kernel's own."""

    def __init__(self, library: Any) -> None:
        self._library = library

    def __getattr__(self, name: str) -> Any:
        if name in ("prctl", "syscall", "capset", "malloc_trim", "unshare", "setns"):
            raise AttributeError(f"dlsym(RTLD_DEFAULT, {name}): symbol not found")
        return getattr(self._library, name)


def hide() -> None:
    sysconfig.get_config_vars()  # of this build, which is not that of another system
    sys.platform = "darwin"
    sys.modules["_scproxy"] = types.ModuleType("_scproxy")
    vars(sys.modules["_scproxy"]).update(_get_proxy_settings=dict, _get_proxies=dict)
    for module, names in ONLY_LINUX.items():
        for name in names:
            if hasattr(module, name):
                delattr(module, name)
    load, set_limit = ctypes.CDLL, resource.setrlimit
    ctypes.CDLL = lambda name, *args, **options: (  # type: ignore[assignment, misc]
        load(name, *args, **options) if name else Library(load(name, *args, **options))
    )

    def setrlimit(which: int, limits: tuple[int, int]) -> None:
        if which == resource.RLIMIT_AS:
            raise ValueError("current limit exceeds maximum limit")
        set_limit(which, limits)

    resource.setrlimit = setrlimit
    for owner, name in ((os, "open"), (os, "stat"), (os, "listdir"), (os, "scandir"), (io, "open"), (builtins, "open")):
        setattr(owner, name, without_proc(getattr(owner, name)))


def without_proc(real: Any) -> Any:
    """For our own code; the tests' may look."""

    def looking(path: Any = ".", *args: Any, **options: Any) -> Any:
        if isinstance(path, str | os.PathLike) and f"{os.fspath(path)}/".startswith(("/proc/", "/sys/")):
            frame = sys._getframe(1)
            for _ in range(8):
                if frame is None or OURS in frame.f_code.co_filename:
                    break
                frame = frame.f_back  # type: ignore[assignment]
            if frame is not None and OURS in frame.f_code.co_filename:
                raise FileNotFoundError(2, "No such file or directory", os.fspath(path))
        return real(path, *args, **options)

    return looking


def in_the_child_too() -> None:
    """Whoever starts a host from here starts one without what is hidden here."""
    from flash.host import installing, link
    from flash.host.launching import launched

    def hidden(*args: Any) -> list[str]:
        [*flags, script, what, channel] = launched(*args)[:6]
        return [*flags, __file__, script, what, channel, *launched(*args)[6:]]

    link.launched = installing.launched = hidden


if __name__ == "__main__":
    hide()
    if sys.argv[1] == "-m":
        sys.path.insert(0, os.getcwd())
        del sys.argv[:2]
        in_the_child_too()
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    else:
        del sys.argv[0]
        runpy.run_path(sys.argv[0], run_name="__main__")
