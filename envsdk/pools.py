"""Pools of processes and threads that were made before a fork, made anew in it.

All forks would share one queue of such a pool: they would take each other's work, and its lock dies with the first
process that is killed while it waits for more. Threads are not in a fork at all.
"""

import gc
import os
import sys
from typing import Any

ANSWERING = "answer-"
"""What the names of threads begin with that work at an answer each."""


def renew_in_forks() -> None:
    """Of the pools that there are now. Costs nothing where nobody has made one."""
    kinds = _kinds()
    pools = [(kind, thing) for kind in kinds for thing in gc.get_objects() if isinstance(thing, kind)]

    def renew() -> None:
        for kind, pool in pools:
            _renew(kind, pool)

    if pools:
        os.register_at_fork(after_in_child=renew)


def _kinds() -> list[Any]:
    """Those whose module somebody has imported."""
    names = {"concurrent.futures.process": "ProcessPoolExecutor", "concurrent.futures.thread": "ThreadPoolExecutor"}
    return [getattr(sys.modules[module], name) for module, name in names.items() if module in sys.modules]


def _renew(kind: Any, pool: Any) -> None:
    first = getattr(pool, "_initializer", None), getattr(pool, "_initargs", ())
    if hasattr(pool, "_mp_context"):
        kind.__init__(pool, pool._max_workers, pool._mp_context, *first, max_tasks_per_child=pool._max_tasks_per_child)
    else:
        kind.__init__(pool, pool._max_workers, pool._thread_name_prefix, *first)
