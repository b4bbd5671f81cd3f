"""Evaluating an environment against an endpoint that answers at once, beside verifiers' own evaluate and bare aiohttp.

python -m bench.eval [--rounds N] [--rollouts N] [--large N]

The sides take turns on the same endpoint, each in a process of its own, with the same rows and as many questions in
flight; every rollout is scored and earns 1.0. Ours runs the environment in its host and saves every row. CPU and memory
are those of the whole tree of processes; of a page that several share, each has its part.
"""

import argparse
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import psutil

from bench.figures import cpu_s, interleaved, last_line, median_ratio, show
from bench.parts import Part, end_in_order, python
from bench.peers import verifiers

IN_FLIGHT = (32, 512)


@dataclass(frozen=True)
class Played:
    """One evaluation."""

    rollouts: int
    took_s: float
    cpu_s: float

    @property
    def per_s(self) -> float:
        return self.rollouts / self.took_s

    @property
    def cpu_ms(self) -> float:
        """Of one rollout."""
        return 1e3 * self.cpu_s / self.rollouts


def main() -> None:
    given = arguments().parse_args()
    end_in_order()
    with ExitStack() as stack:
        parts = start(stack, given.large)
        found: dict[int, dict[str, list[Played]]] = {}
        for in_flight in IN_FLIGHT:
            # So many that what starts and ends beside the full flight does not count for much.
            rollouts = max(given.rollouts, 2 * in_flight)
            for part in parts.values():
                play(part, min(rollouts, 2 * in_flight), in_flight)  # the first pays for imports and connections
            sides = {name: lambda _, p=part, n=rollouts, c=in_flight: play(p, n, c) for name, part in parts.items()}
            found[in_flight] = interleaved(given.rounds, sides)
        with peak_mib(parts["flash"].pid) as peak:
            large = {in_flight: play(parts["flash"], given.large, in_flight) for in_flight in IN_FLIGHT}
        classic = play(parts["flash, its dialect"], given.large, IN_FLIGHT[-1])
    tell(given, found, large, classic, peak[0])


def tell(
    given: argparse.Namespace,
    found: dict[int, dict[str, list[Played]]],
    large: dict[int, Played],
    classic: Played,
    rss_mib: float,
) -> None:
    rows = [
        (
            f"{name}, {in_flight} in flight",
            f"{median(p.per_s for p in played):,.0f}",
            f"{median(p.cpu_ms for p in played):.2f}",
            f"{played[0].rollouts:,}",
        )
        for in_flight, sides in found.items()
        for name, played in sides.items()
    ]
    rows += [
        (f"flash, {in_flight} in flight", f"{p.per_s:,.0f}", f"{p.cpu_ms:.2f}", f"{p.rollouts:,}")
        for in_flight, p in large.items()
    ]
    rows.append(
        (f"flash, its dialect, {IN_FLIGHT[-1]} in flight", f"{classic.per_s:,.0f}", f"{classic.cpu_ms:.2f}",
         f"{classic.rollouts:,}")
    )  # fmt: skip
    show(f"evaluating, median of {given.rounds}", ["side", "rollouts/s", "CPU ms each", "rollouts"], rows)
    ratios = {
        f"ratio_{in_flight}": median_ratio((p.per_s for p in sides["flash"]), (p.per_s for p in sides["verifiers"]))
        for in_flight, sides in found.items()
    }
    flat = large[IN_FLIGHT[-1]].cpu_ms / large[IN_FLIGHT[0]].cpu_ms
    print(f"memory: {rss_mib:.0f} MiB; CPU at {IN_FLIGHT[-1]} in flight over {IN_FLIGHT[0]}: {flat:.2f}")
    worst_ms = max(p.cpu_ms for p in large.values())
    figures = {"cpu_ms_per_rollout": worst_ms, "cpu_ms_per_rollout_classic": classic.cpu_ms, "rss_mib": rss_mib}
    print(last_line("eval", **ratios, **figures))


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bench.eval", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rollouts", type=int, default=600, help="of each side in each round, at 32 in flight")
    parser.add_argument("--large", type=int, default=10_000, help="of ours alone, for CPU and memory")
    return parser


def start(stack: ExitStack, count: int) -> dict[str, Part]:
    """The sides, by name, with `count` rows each, and the endpoint that they ask."""

    logs = Path(stack.enter_context(tempfile.TemporaryDirectory()))

    def part(name: str, command: list[str]) -> Part:
        started = Part(name, command, logs / f"{name}.log")
        stack.callback(started.stop)
        return started

    def ours(task: str) -> list[str]:
        return python("bench.eval_parts", url, str(count), task, interpreter=sys.executable)

    url = part("endpoint", python("bench.instant")).ready["url"]
    peer = verifiers.interpreter()
    few = str(2 * max(IN_FLIGHT))
    return {
        "flash": part("flash", ours("echo")),
        "flash, its dialect": part("classic", ours("echo_classic")),
        "verifiers": part("verifiers", python("bench.peers.verifiers", "evaluate", url, few, interpreter=peer)),
        "aiohttp": part("aiohttp", python("bench.peers.verifiers", "aiohttp", url, few, interpreter=peer)),
    }


def play(part: Part, rollouts: int, in_flight: int) -> Played:
    before = cpu_s(part.pid)
    took_s = part.ask("play", rollouts=rollouts, concurrency=in_flight)["took_s"]
    return Played(rollouts, took_s, cpu_s(part.pid) - before)


@contextmanager
def peak_mib(pid: int, every_s: float = 0.1) -> Iterator[list[float]]:
    """The most that a process and its descendants have had together while the block ran."""
    peak, over = [0.0], threading.Event()

    def look() -> None:
        while not over.is_set():
            peak[0] = max(peak[0], _mib(pid))
            time.sleep(every_s)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        over.set()
        thread.join()


def _mib(pid: int) -> float:
    process, total = psutil.Process(pid), 0
    for one in [process, *process.children(recursive=True)]:
        try:
            rollup = Path(f"/proc/{one.pid}/smaps_rollup").read_text()
        except OSError:  # it has ended meanwhile
            continue
        total += next((int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:")), 0)
    return total / 2**10


if __name__ == "__main__":
    main()
