"""Sandboxed calls of a trivial reward, beside the plain function and beside a process per call.

    python -m bench.scoring [--rounds 5] [--groups 300]

Groups of 8 answers of about 2 kB. Through the service: from one NATS server through the scorer to whoever learns, all
on this machine. The host: the same walls, asked directly, with 8 groups in flight, or one by one, or with a fork for
each answer (`isolation = "call"`). The floor is the function itself; the peer is what most scorers do: a fresh process
per call.
"""

import argparse
import asyncio
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, quantiles

import psutil

from bench.figures import cpu_s, interleaved, last_line, median_ratio, show
from bench.parts import ROOT, end_in_order
from bench.transport import Ours
from envsdk import TaskExample, load_environment
from flash.contracts.values import Example
from flash.host import Host, HostSpec, Limits
from flash.host.sandbox import chosen

TRIVIAL = ROOT / "bench" / "trivial"
GROUP = 8
ANSWER_TOKENS = 64
"""Of a rollout through the service: short, so that it is scoring that is measured; `bench.transport` has long ones."""
EXAMPLE = Example(index=0, id="row-0", input="question", output="answer", record={"input": "question"})
TEXTS = [f"{number} " + "and then said what it had found " * 64 for number in range(GROUP)]
SERVICE, HOST, ALONE, CALL, PLAIN, PROCESS = (
    "through the service", "the host", "the host, one by one", 'isolation = "call"', "the function", "process per call"
)  # fmt: skip

ONE_CALL = f"""
import sys
sys.path[:0] = [{str(ROOT)!r}]
from envsdk import TaskExample, load_environment
environment = load_environment({str(TRIVIAL)!r})
example = TaskExample(record={{}}, input="question", id="", metadata={{}}, output="answer")
print(environment.score_response(example, sys.stdin.read()))
"""


@dataclass(frozen=True)
class Turn:
    """What one side did in one round."""

    calls: int
    wall_s: float
    cpu_s: float
    group_s: list[float] = field(default_factory=list)
    """How long each group took."""

    @property
    def calls_per_s(self) -> float:
        return self.calls / self.wall_s

    @property
    def cpu_ms(self) -> float:
        return 1e3 * self.cpu_s / self.calls


class Hosted:
    """A host of our own."""

    def __init__(self, runner: asyncio.Runner, stack: ExitStack, folder: Path) -> None:
        self._runner = runner
        self._host = runner.run(Host.start(HostSpec(folder=folder, limits=Limits(slots=2))))
        stack.callback(lambda: runner.run(self._host.close()))

    def turn(self, groups: int, in_flight: int) -> Turn:
        return timed(groups, lambda: self._runner.run(self._score(groups, in_flight)))

    async def _score(self, groups: int, in_flight: int) -> list[float]:
        took_s: list[float] = []
        waiting = iter(range(groups))

        async def worker() -> None:
            for _ in waiting:
                began = time.perf_counter()
                verdicts = await self._host.score(EXAMPLE, TEXTS, deadline_s=10)
                took_s.append(time.perf_counter() - began)
                assert [verdict.reward for verdict in verdicts] == [1.0] * GROUP, verdicts

        await asyncio.gather(*(worker() for _ in range(in_flight)))
        return took_s


def timed(groups: int, go: Callable[[], list[float]]) -> Turn:
    pid = psutil.Process().pid
    before, start = cpu_s(pid), time.perf_counter()
    group_s = go()
    wall_s = time.perf_counter() - start
    return Turn(groups * GROUP, wall_s, cpu_s(pid) - before, group_s)


def function(groups: int) -> Turn:
    environment = load_environment(TRIVIAL)
    example = TaskExample(record={}, input="question", id="", metadata={}, output="answer")

    def go() -> list[float]:
        took_s = []
        for _ in range(groups):
            began = time.perf_counter()
            assert all(environment.score_response(example, text) == 1.0 for text in TEXTS)
            took_s.append(time.perf_counter() - began)
        return took_s

    return timed(groups, go)


def processes(groups: int) -> Turn:
    """Two at a time, as there are two cores."""

    def go() -> list[float]:
        took_s = []
        for _ in range(groups):
            began = time.perf_counter()
            for first in range(0, GROUP, 2):
                pair = [
                    subprocess.Popen(
                        [sys.executable, "-I", "-c", ONE_CALL], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
                    )
                    for _ in range(2)
                ]
                for text, one in zip(TEXTS[first : first + 2], pair, strict=True):
                    assert one.communicate(text)[0] == "1.0\n"
            took_s.append(time.perf_counter() - began)
        return took_s

    return timed(groups, go)


def service(ours: Ours, groups: int) -> Turn:
    turn = ours.turn(groups, answer_tokens=ANSWER_TOKENS)
    return Turn(groups * GROUP, turn.wall_s, sum(turn.cpu_s.values()))


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.scoring")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--groups", type=int, default=300, help="a turn of ours; a process per call gets fewer")
    given = parser.parse_args()
    end_in_order()
    print(f"walls: {', '.join(chosen().names)}")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="flash-bench-")))
        runner = stack.enter_context(asyncio.Runner())
        host, alone = Hosted(runner, stack, TRIVIAL), Hosted(runner, stack, apart(folder / "call"))
        ours = Ours(folder / "service", runner, stack, hosted=True)
        sides: dict[str, Callable[[int], Turn]] = {
            SERVICE: lambda _: service(ours, given.groups),
            HOST: lambda _: host.turn(given.groups, 8),
            ALONE: lambda _: host.turn(given.groups // 2, 1),
            CALL: lambda _: alone.turn(given.groups // 4, 8),
            PLAIN: lambda _: function(given.groups * 10),
            PROCESS: lambda _: processes(2),
        }
        for side in sides.values():
            side(-1)  # the first turn warms up and is not counted
        found = interleaved(given.rounds, sides)
    report(found)


def apart(folder: Path) -> Path:
    """The trivial environment, with a fork for each answer."""
    folder.mkdir(parents=True)
    code = (TRIVIAL / "environment.py").read_text()
    (folder / "environment.py").write_text(code.replace("    dataset =", '    isolation = "call"\n    dataset =', 1))
    return folder


def report(found: Mapping[str, Sequence[Turn]]) -> None:
    rates = {name: [turn.calls_per_s for turn in turns] for name, turns in found.items()}
    cpu = {name: [turn.cpu_ms for turn in turns] for name, turns in found.items()}
    group_ms = {name: sorted(1e3 * took for turn in turns for took in turn.group_s) for name, turns in found.items()}
    show(
        f"groups of {GROUP}; medians of {len(found[HOST])} rounds",
        ["side", "calls/s", "group p50 ms", "p99 ms", "CPU ms/call"],
        [
            (name, f"{median(rates[name]):,.0f}", *tails(group_ms[name]), f"{median(cpu[name]):.4f}")
            for name in found
        ],
    )  # fmt: skip
    latencies = quantiles(group_ms[ALONE], n=100)
    print(
        last_line(
            "scoring",
            calls_per_s=median(rates[SERVICE]),
            peer_calls_per_s=median(rates[PROCESS]),
            ratio=median_ratio(rates[SERVICE], rates[PROCESS]),
            p50_ms=latencies[49],
            p99_ms=latencies[98],
            calls_per_s_host=median(rates[HOST]),
            calls_per_s_isolation_call=median(rates[CALL]),
            calls_per_s_function=median(rates[PLAIN]),
            cpu_ms_per_call=median(cpu[SERVICE]),
            cpu_ms_per_call_host=median(cpu[HOST]),
            peer_cpu_ms_per_call=median(cpu[PROCESS]),
            cpu_ratio=median_ratio(cpu[PROCESS], cpu[HOST]),
        )
    )


def tails(group_ms: Sequence[float]) -> tuple[str, str]:
    if len(group_ms) < 2:
        return "", ""
    cuts = quantiles(group_ms, n=100)
    return f"{cuts[49]:.2f}", f"{cuts[98]:.2f}"


if __name__ == "__main__":
    main()
