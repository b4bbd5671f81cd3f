"""A plugin of vLLM: its processes do not outlive the rollout that started them, which would find their GPU taken."""

import os
import sys
from multiprocessing import parent_process

LEASH = "FLASH_ENGINE_LEASH"
"""Set for the processes that a rollout starts; those of other programs are none of ours."""


def register() -> None:
    """What vLLM calls in each of its processes: the entry point of group `vllm.general_plugins`.

    On Linux the kernel ends this process when the one that started it dies, even by SIGKILL.
    """
    parent = parent_process()
    if parent is None or LEASH not in os.environ or sys.platform != "linux":
        return
    import ctypes
    import signal

    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    # It may have died before the kernel was told.
    if os.getppid() != parent.pid:
        os._exit(1)
