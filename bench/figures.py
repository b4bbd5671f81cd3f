"""What a bench measures with and how it says what it found."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import median
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table


def cpu_s(pid: int) -> float:
    """CPU seconds of a process and all its descendants so far, ended ones included.

    A child that has been waited for counts with its parent, so the sum does not fall when one ends.
    """
    process = psutil.Process(pid)
    return sum(own_cpu_s(p) for p in [process, *process.children(recursive=True)])


def cpu_by_name(pids: Mapping[str, int]) -> dict[str, float]:
    return {name: cpu_s(pid) for name, pid in pids.items()}


def spent(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    return {name: after[name] - before[name] for name in after}


def interleaved(rounds: int, sides: Mapping[str, Callable[[int], Any]]) -> dict[str, list[Any]]:
    """What each side gave in each round. Every round begins with another side, so that none always runs first."""
    found: dict[str, list[Any]] = {name: [] for name in sides}
    names = list(sides)
    for number in range(rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            found[name].append(sides[name](number))
    return found


def median_ratio(ours: Iterable[float], theirs: Iterable[float]) -> float:
    """The median over the rounds of one over the other: pairs that ran beside each other, on the same machine load."""
    return median(a / b for a, b in zip(ours, theirs, strict=True))


def show(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    table = Table(title=title, title_justify="left")
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left")
    for row in rows:
        table.add_row(*row)
    Console(width=120).print(table)


def last_line(bench: str, **figures: float) -> str:
    """What a program reads: one line of JSON, the figures to four digits."""
    return json.dumps({"bench": bench, **{name: float(f"{value:.4g}") for name, value in figures.items()}})


def own_cpu_s(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:  # it ended just now, and its parent has its seconds
        return 0.0
    return times.user + times.system + times.children_user + times.children_system
