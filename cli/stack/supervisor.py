"""Keeps processes alive: starts them in order, starts again what dies, and at the end leaves nothing behind."""

import asyncio
import os
import sys
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cli.stack.backoff import Backoff
from cli.stack.home import PartState, Standing, end_group, last_lines, started_at
from cli.stack.parts import Part, environment

_LEASH = (sys.executable, "-I", "-S", str(Path(__file__).with_name("leash.py")))
_NOTE_CHARS = 120


@dataclass(frozen=True)
class Timing:
    """How long things may take, in seconds."""

    backoff: Backoff = field(default_factory=Backoff)
    grace_s: float = 5.0
    """From SIGTERM to SIGKILL."""
    turn_s: float = 10.0
    """How long parts wait for the needed ones of lower rank before they start all the same."""
    poll_s: float = 0.25
    """Between two looks at who is ready, until all are."""
    watch_s: float = 2.0
    """The same, once all are."""
    silent_s: float = 15.0
    """How long a part that was ready may go without an answer before we say so."""


class Supervisor:
    """Runs parts until it is told to stop.

    `ready` gives the names of the parts that do their work; `changed` hears whenever a part stands otherwise;
    `log_of` says where a part that starts now writes.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        *,
        ready: Callable[[], Awaitable[Collection[str]]],
        log_of: Callable[[str], Path],
        changed: Callable[[], None] = lambda: None,
        cwd: Path | None = None,
        base_env: Mapping[str, str] = os.environ,
        first_env: Mapping[str, Mapping[str, str]] | None = None,
        timing: Timing | None = None,
    ) -> None:
        self._watched = {part.name: _Watched(part) for part in parts}
        self._ready = ready
        self._log_of = log_of
        self._changed = changed
        self._cwd = cwd
        self._base_env = base_env
        self._first_env = first_env or {}
        self._timing = timing or Timing()
        self._stopping = asyncio.Event()
        self._hurrying = asyncio.Event()
        self._moved = asyncio.Event()

    @property
    def states(self) -> tuple[PartState, ...]:
        return tuple(watched.state for watched in self._watched.values())

    @property
    def is_ready(self) -> bool:
        """Is every part there that the stack cannot do without?"""
        return all(watched.state.standing == "ready" for watched in self._watched.values() if watched.part.needed)

    def stop(self) -> None:
        """Have `run` end in order; said twice, without waiting for anybody."""
        if self._stopping.is_set():
            self._hurrying.set()
        self._stopping.set()

    async def run(self) -> None:
        """Returns after `stop`, when no process is left."""
        work = [asyncio.create_task(self._watch()), asyncio.create_task(self._start_in_turn())]
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait([*work, stopping], return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._stopping.set()
            for task in (*work, stopping):
                task.cancel()
            await self._end([w for w in self._watched.values() if not w.part.keeps])
            await self._end([w for w in self._watched.values() if w.part.keeps])
        for task in work:
            if task.done() and not task.cancelled() and (error := task.exception()):
                raise error

    async def _start_in_turn(self) -> None:
        for rank in sorted({watched.part.rank for watched in self._watched.values()}):
            for watched in self._of_rank(rank):
                watched.keeping = asyncio.create_task(self._keep(watched))
            needed = [watched for watched in self._of_rank(rank) if watched.part.needed]
            try:
                async with asyncio.timeout(self._timing.turn_s):
                    while any(watched.state.standing != "ready" for watched in needed):
                        self._moved.clear()
                        await self._moved.wait()
            except TimeoutError:
                continue
        # Not gather, which would cancel them with us: they go on until their processes have ended.
        keeping = [watched.keeping for watched in self._watched.values() if watched.keeping]
        done, _ = await asyncio.wait(keeping, return_when=asyncio.FIRST_EXCEPTION)
        for task in done:
            task.result()

    def _of_rank(self, rank: int) -> list["_Watched"]:
        return [watched for watched in self._watched.values() if watched.part.rank == rank]

    async def _keep(self, watched: "_Watched") -> None:
        """One process after the other, until it is time to stop."""
        deaths = 0
        while not self._stopping.is_set():
            process = await self._spawn(watched)
            began = time.monotonic()
            code = await process.wait()
            self._clear_away(watched)
            if self._stopping.is_set():
                break
            deaths = self._timing.backoff.deaths(deaths, time.monotonic() - began)
            pause_s = self._timing.backoff.pause_s(deaths)
            watched.deaths += 1
            said = last_lines(self._log_of(watched.part.name), 1) or ["it said nothing"]
            why = f"{_ended(code)}, again in {pause_s:.1f} s: {said[0].strip()}"
            self._stands(watched, "down", note=why[:_NOTE_CHARS])
            try:
                async with asyncio.timeout(pause_s):
                    await self._stopping.wait()
            except TimeoutError:
                watched.restarts += 1
        self._stands(watched, "stopped")

    async def _spawn(self, watched: "_Watched") -> asyncio.subprocess.Process:
        part = watched.part
        env = environment(part, self._base_env)
        if not watched.restarts:
            env |= self._first_env.get(part.name, {})
        with self._log_of(part.name).open("ab") as log:
            # The kernel ties a process to the thread that started it, so this must be the thread that lives longest.
            process = await asyncio.create_subprocess_exec(
                *_LEASH,
                str(os.getpid()),
                *part.argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._cwd,
                env=env,
                start_new_session=True,
            )
        watched.process = process
        self._stands(watched, "warming" if part.warms else "starting")
        if self._hurrying.is_set():
            end_group(process.pid)
        elif self._stopping.is_set():
            _terminate(process)
        return process

    def _clear_away(self, watched: "_Watched") -> None:
        """What a dead process has left: children in its group, files."""
        assert watched.process
        end_group(watched.process.pid)
        watched.process = None
        for path in watched.part.leaves:
            path.unlink(missing_ok=True)

    async def _end(self, watched: Iterable["_Watched"]) -> None:
        keeping = {one.keeping: one for one in watched if one.keeping}
        if not keeping:
            return
        for one in keeping.values():
            if one.process:
                _terminate(one.process)
        hurrying = asyncio.create_task(self._hurrying.wait())
        waiting: set[asyncio.Task[None]] = set(keeping)
        until = time.monotonic() + self._timing.grace_s
        while waiting and not hurrying.done() and (left_s := until - time.monotonic()) > 0:
            await asyncio.wait([*waiting, hurrying], timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
            waiting = {task for task in waiting if not task.done()}
        hurrying.cancel()
        for one in keeping.values():
            if one.process:
                end_group(one.process.pid)
        await asyncio.wait(keeping)

    async def _watch(self) -> None:
        while True:
            answering = await self._ready()
            now = time.monotonic()
            for watched in self._watched.values():
                if watched.process is None:
                    continue
                if watched.part.name in answering:
                    watched.heard_at, watched.deaths = now, 0
                    self._stands(watched, "ready")
                elif watched.state.standing == "ready" and now - watched.heard_at > self._timing.silent_s:
                    self._stands(watched, "silent")
            all_are = all(watched.state.standing == "ready" for watched in self._watched.values())
            await asyncio.sleep(self._timing.watch_s if all_are else self._timing.poll_s)

    def _stands(self, watched: "_Watched", standing: Standing, *, note: str = "") -> None:
        before, pid = watched.state, watched.process.pid if watched.process else None
        since = before.started_at if pid == before.pid else started_at(pid) if pid else 0.0
        watched.state = PartState(
            name=before.name,
            standing=standing,
            pid=pid,
            started_at=since or 0.0,
            restarts=watched.restarts,
            deaths=watched.deaths,
            note=note,
        )
        if watched.state != before:
            self._moved.set()
            self._changed()


class _Watched:
    """A part, and what has become of it."""

    def __init__(self, part: Part) -> None:
        self.part = part
        self.state = PartState(name=part.name)
        self.process: asyncio.subprocess.Process | None = None
        self.keeping: asyncio.Task[None] | None = None
        self.restarts = 0
        """How often it was started again."""
        self.deaths = 0
        """In a row, before it answered."""
        self.heard_at = 0.0


def _terminate(process: asyncio.subprocess.Process) -> None:
    try:
        process.terminate()
    except ProcessLookupError:
        return


def _ended(code: int) -> str:
    return f"killed by signal {-code}" if code < 0 else f"exited with {code}"
