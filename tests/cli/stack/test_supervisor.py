"""What is true of the supervisor, with small programs in place of the parts."""

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from cli.stack.backoff import Backoff
from cli.stack.home import PartState, started_at
from cli.stack.parts import Part
from cli.stack.supervisor import Supervisor, Timing

OFTEN = Timing(poll_s=0.02, watch_s=0.02)
QUICK = replace(OFTEN, backoff=Backoff(first_s=0.05, longest_s=0.2, steady_s=30), grace_s=1.0, turn_s=2.0)


def sleeper(name: str, **more: object) -> Part:
    return Part(name, ("sleep", "600"), **more)  # type: ignore[arg-type]


def script(name: str, text: str, **more: object) -> Part:
    return Part(name, (sys.executable, "-I", "-S", "-c", textwrap.dedent(text)), **more)  # type: ignore[arg-type]


class Stage:
    """A supervisor that runs, with what a test wants to know of it."""

    def __init__(self, supervisor: Supervisor, running: "asyncio.Task[None]", logs: Path) -> None:
        self.supervisor = supervisor
        self.running = running
        self.logs = logs

    def state(self, name: str) -> PartState:
        return next(state for state in self.supervisor.states if state.name == name)

    def pid(self, name: str) -> int:
        pid = self.state(name).pid
        assert pid is not None
        return pid

    async def until(self, claim: Callable[[], bool]) -> None:
        async with asyncio.timeout(8):
            while not claim():  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    def said(self, name: str) -> str:
        return (self.logs / name).read_text()


@asynccontextmanager
async def staged(
    tmp_path: Path, *parts: Part, deaf: Collection[str] = (), timing: Timing = QUICK, **more: object
) -> AsyncIterator[Stage]:
    """Parts with a pid count as ready, except the `deaf`."""

    async def ready() -> Collection[str]:
        return [state.name for state in supervisor.states if state.pid and state.name not in deaf]

    supervisor = Supervisor(parts, ready=ready, log_of=lambda name: tmp_path / name, timing=timing, **more)  # type: ignore[arg-type]
    stage = Stage(supervisor, asyncio.create_task(supervisor.run()), tmp_path)
    try:
        yield stage
    finally:
        supervisor.stop()
        async with asyncio.timeout(10):
            await stage.running


async def test_a_part_that_dies_is_started_again(tmp_path: Path) -> None:
    async with staged(tmp_path, sleeper("one"), sleeper("two")) as stage:
        await stage.until(lambda: stage.state("one").standing == "ready")
        first, other = stage.pid("one"), stage.pid("two")
        os.kill(first, signal.SIGKILL)
        await stage.until(lambda: stage.state("one").restarts == 1 and stage.state("one").standing == "ready")

        assert stage.pid("one") != first
        assert stage.state("one").deaths == 0
        assert stage.pid("two") == other
        assert stage.state("one").started_at == started_at(stage.pid("one"))


async def test_a_part_that_keeps_dying_says_why_and_is_tried_less_and_less_often(tmp_path: Path) -> None:
    changes: list[PartState] = []
    part = script("bad", "raise SystemExit('no such model')")

    def changed() -> None:
        changes.append(stage.state("bad"))

    stage: Stage
    async with staged(tmp_path, part, deaf={"bad"}, changed=changed) as stage:
        await stage.until(lambda: stage.state("bad").restarts == 4)

    assert stage.state("bad").deaths >= 4
    notes = [state.note for state in changes if state.standing == "down"]
    assert notes[:4] == [f"exited with 1, again in {pause} s: no such model" for pause in ("0.1", "0.1", "0.2", "0.2")]


async def test_nothing_is_left_after_a_stop(tmp_path: Path) -> None:
    family = """
        import os, signal, time
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if not (child := os.fork()):
            time.sleep(600)
        print(child, flush=True)
        time.sleep(600)
    """
    async with staged(tmp_path, sleeper("one"), script("stubborn", family)) as stage:
        await stage.until(lambda: bool((tmp_path / "stubborn").exists() and stage.said("stubborn")))
        pids = [stage.pid("one"), stage.pid("stubborn"), int(stage.said("stubborn"))]
        began = time.monotonic()
        stage.supervisor.stop()
        await stage.running

        assert time.monotonic() - began >= QUICK.grace_s
        await stage.until(lambda: not any(map(started_at, pids)))  # a killed orphan takes a moment to go
        assert {state.standing for state in stage.supervisor.states} == {"stopped"}


async def test_a_second_stop_waits_for_nobody(tmp_path: Path) -> None:
    patient = replace(OFTEN, grace_s=60)
    text = "import signal, time; signal.signal(15, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)"
    async with staged(tmp_path, script("stubborn", text), timing=patient) as stage:
        await stage.until(lambda: bool((tmp_path / "stubborn").exists() and stage.said("stubborn")))
        stage.supervisor.stop()
        await asyncio.sleep(0.1)
        assert not stage.running.done()

        stage.supervisor.stop()
        async with asyncio.timeout(2):
            await stage.running


async def test_children_that_a_dead_part_left_are_gone_before_it_starts_again(tmp_path: Path) -> None:
    family = "import os, time; child = os.fork(); child and print(child, flush=True); time.sleep(600)"
    async with staged(tmp_path, script("parent", family)) as stage:
        await stage.until(lambda: bool((tmp_path / "parent").exists() and stage.said("parent")))
        child = int(stage.said("parent"))
        os.kill(stage.pid("parent"), signal.SIGKILL)
        await stage.until(lambda: stage.state("parent").restarts == 1)

        assert started_at(child) is None


async def test_parts_wait_for_the_needed_ones_before_them(tmp_path: Path) -> None:
    deaf = {"first"}
    parts = (sleeper("first", needed=True), sleeper("beside"), sleeper("second", rank=1, warms=True))
    async with staged(tmp_path, *parts, deaf=deaf) as stage:
        await stage.until(lambda: stage.state("beside").standing == "ready")
        assert stage.state("second").standing == "waiting"
        assert not stage.supervisor.is_ready

        deaf.clear()
        await stage.until(lambda: stage.state("second").standing == "ready")
        assert stage.supervisor.is_ready


async def test_parts_do_not_wait_for_ever(tmp_path: Path) -> None:
    parts = (sleeper("first", needed=True), sleeper("second", rank=1, warms=True))
    async with staged(tmp_path, *parts, deaf={"first", "second"}, timing=replace(OFTEN, turn_s=0.1)) as stage:
        await stage.until(lambda: stage.state("second").standing == "warming")

        assert stage.state("first").standing == "starting"


async def test_what_others_need_to_end_in_order_is_stopped_last(tmp_path: Path) -> None:
    text = """
        import signal, sys, time
        def end(*_):
            time.sleep(0.2)
            print(time.time(), flush=True)
            sys.exit()
        signal.signal(signal.SIGTERM, end)
        print(0, flush=True)
        time.sleep(600)
    """
    async with staged(tmp_path, script("bus", text, keeps=True), script("service", text, rank=1)) as stage:
        await stage.until(lambda: all((tmp_path / name).exists() and stage.said(name) for name in ("bus", "service")))

    bus, service = (float(stage.said(name).split()[-1]) for name in ("bus", "service"))
    assert bus > service + 0.15


async def test_a_part_that_no_longer_answers_is_called_silent(tmp_path: Path) -> None:
    deaf: set[str] = set()
    async with staged(tmp_path, sleeper("one"), deaf=deaf, timing=replace(OFTEN, silent_s=0.1)) as stage:
        await stage.until(lambda: stage.state("one").standing == "ready")
        deaf.add("one")
        await stage.until(lambda: stage.state("one").standing == "silent")
        deaf.clear()

        await stage.until(lambda: stage.state("one").standing == "ready")


async def test_a_program_that_is_not_there_is_named(tmp_path: Path) -> None:
    async with staged(tmp_path, Part("ghost", ("/no/such/program",))) as stage:
        await stage.until(lambda: stage.state("ghost").restarts == 1)

        assert "/no/such/program cannot be started" in stage.said("ghost")


async def test_variables_for_the_first_start_are_gone_at_the_second(tmp_path: Path) -> None:
    part = script("one", "import os; print(os.environ.get('FLASH_KILL_AT'), os.environ['A'])", env={"A": "1"})
    async with staged(tmp_path, part, first_env={"one": {"FLASH_KILL_AT": "told"}}) as stage:
        await stage.until(lambda: stage.state("one").restarts == 2)

    assert stage.said("one").split("\n")[:2] == ["told 1", "None 1"]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the next `flash up` ends what is left")
def test_nothing_outlives_a_supervisor_that_is_killed(tmp_path: Path) -> None:
    text = f"""
        import asyncio
        from pathlib import Path
        from cli.stack.parts import Part
        from cli.stack.supervisor import Supervisor

        async def ready():
            return [state.name for state in supervisor.states if state.pid]

        supervisor = Supervisor(
            [Part("one", ("sleep", "600")), Part("two", ("sleep", "600"))],
            ready=ready,
            log_of=Path({str(tmp_path)!r}).joinpath,
            changed=lambda: supervisor.is_ready and print(*(state.pid for state in supervisor.states), flush=True),
        )
        asyncio.run(supervisor.run())
    """
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(text)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        pids: list[str] = []
        while len(pids) < 2 or "None" in pids:
            pids = process.stdout.readline().split()
        process.kill()

    until = time.monotonic() + 3
    while (left := [pid for pid in pids if started_at(int(pid))]) and time.monotonic() < until:
        time.sleep(0.02)
    assert left == []
