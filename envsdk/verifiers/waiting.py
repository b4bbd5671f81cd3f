"""Waiting for what is `async` from code that is not.

Each thread keeps a loop: to make one costs more than most answers take to score, and what authors hold on to (clients,
locks) may be bound to the first that it saw.
"""

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine, Iterable
from contextvars import Context
from typing import Any, TypeVar

R = TypeVar("R")


class _Loop(asyncio.SelectorEventLoop):
    """A loop whose tasks begin at once: most scoring functions never wait for anything, and then it need not turn."""

    def __init__(self) -> None:
        super().__init__()
        self.owner = os.getpid()
        self._beginning = False
        self._first: Callable[[], object] | None = None

    def begin(self, work: Coroutine[Any, Any, R]) -> "asyncio.Task[R]":
        """A task that has run up to where it waits for something."""
        self._beginning = True
        task = self.create_task(work)
        self._beginning = False
        first, self._first = self._first, None
        asyncio._set_running_loop(self)
        try:
            if first:
                first()
        finally:
            asyncio._set_running_loop(None)
        return task

    def call_soon(self, callback: Any, *args: Any, context: Context | None = None) -> Any:  # type: ignore[override]
        if self._beginning:  # the task's first step
            self._first = lambda: context.run(callback, *args) if context else callback(*args)
            return None
        return super().call_soon(callback, *args, context=context)

    def __del__(self) -> None:
        if self.owner == os.getpid() and not self.is_running():  # a fork must not touch its parent's
            self.close()


class _Here(threading.local):
    loops: tuple[_Loop, ...] = ()
    """This process's last. The parent's stay referred to, or Python would close them for both."""


_here = _Here()


def wait(work: Coroutine[Any, Any, R]) -> R:
    """The result. What is still to be done in the background goes on when something is next waited for."""
    return wait_all([work])[0]


def wait_all(works: Iterable[Coroutine[Any, Any, R]]) -> list[R]:
    """The results, in order: begun one after another, and waited for together. Raises what the first of them raised."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        pass
    else:
        raise RuntimeError("this waits for what is async, and cannot be called from what is async itself")
    if not _here.loops or _here.loops[-1].owner != os.getpid():
        _here.loops = (*_here.loops, _Loop())
    loop = _here.loops[-1]
    tasks = [loop.begin(work) for work in works]
    if waiting := [task for task in tasks if not task.done()]:
        loop.run_until_complete(asyncio.wait(waiting))
    return [task.result() for task in tasks]


class Beside:
    """A loop that lasts as long as this process, in a thread of its own, where what several threads wait for goes on
    side by side; with `together` False it is the caller's thread."""

    def __init__(self, *, together: bool) -> None:
        self._together = together
        self._starting = threading.Lock()
        self._loops: tuple[_Loop, ...] = ()

    def wait(self, work: Coroutine[Any, Any, Any]) -> Any:
        async def settled() -> tuple[Any, BaseException | None]:
            try:
                return await work, None
            except (Exception, SystemExit) as error:  # SystemExit would end the loop
                return None, error

        value, error = self._of_thread(settled()) if self._together else wait(settled())
        if error is not None:
            raise error
        return value

    def _of_thread(self, work: Coroutine[Any, Any, Any]) -> Any:
        with self._starting:
            if not self._loops or self._loops[-1].owner != os.getpid():
                self._loops = (*self._loops, _Loop())
                threading.Thread(target=self._loops[-1].run_forever, daemon=True).start()
        return asyncio.run_coroutine_threadsafe(work, self._loops[-1]).result()
