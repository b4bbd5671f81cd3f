"""What `flash --help` costs before anything happens, beside the bare interpreter.

python -m bench.cli
"""

import argparse
import resource
import subprocess
import sys
from pathlib import Path
from statistics import median

from bench.figures import interleaved, last_line, show

FLASH = Path(sys.executable).with_name("flash")


def main() -> None:
    given = arguments().parse_args()
    commands = {"flash --help": [str(FLASH), "--help"], "python -c pass": [sys.executable, "-c", "pass"]}
    for command in commands.values():
        cpu_ms(command)  # the first reads from disk
    found = interleaved(given.rounds, {name: lambda _, c=command: cpu_ms(c) for name, command in commands.items()})
    medians = {name: median(times) for name, times in found.items()}
    show(
        f"starting, median of {given.rounds}",
        ["command", "CPU ms", "min", "max"],
        [(name, f"{medians[name]:.1f}", f"{min(ms):.1f}", f"{max(ms):.1f}") for name, ms in found.items()],
    )
    print(last_line("cli", cpu_ms=medians["flash --help"], floor_cpu_ms=medians["python -c pass"]))


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bench.cli", description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    return parser


def cpu_ms(command: list[str]) -> float:
    """CPU milliseconds of a command, run to its end."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return 1e3 * (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


if __name__ == "__main__":
    main()
