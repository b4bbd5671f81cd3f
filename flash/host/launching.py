"""The script that runs within the walls: how it is started, what it finds, and what it reads."""

import sys
import sysconfig
from pathlib import Path
from typing import Literal

import msgspec

import envsdk
from flash.host import child

VARIABLES = {
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "LANG": "C.UTF-8",
    "LD_BIND_NOW": "1",  # what is bound late is bound anew in each fork; taken away before the author's code
    "MALLOC_ARENA_MAX": "2",  # else each thread's arena takes 64 MiB of the address space
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    # macOS' own libraries end a fork that uses them, and its proxies are asked by one of them
    **({"OBJC_DISABLE_INITIALIZE_FORK_SAFETY": "YES", "no_proxy": "*"} if sys.platform == "darwin" else {}),
}


def launched(what: Literal["starting", "installing"], channel: int) -> list[str]:
    """The interpreter's arguments for the script within the walls. msgspec and envsdk are on its path, and off it again
    before an author's code is imported."""
    libraries = dict.fromkeys(str(Path(str(module.__file__)).parent.parent) for module in (msgspec, envsdk))
    return ["-I", "-S", "-B", str(Path(str(child.__file__)).parent / "__main__.py"), what, str(channel), *libraries]


def library() -> list[str]:
    """What that script reads."""
    return [str(Path(str(module.__file__)).parent) for module in (child, msgspec, envsdk)]


def packages() -> list[str]:
    """What is installed beside Flash."""
    return list(dict.fromkeys((sysconfig.get_path("purelib"), sysconfig.get_path("platlib"))))
