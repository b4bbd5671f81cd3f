"""One line per part on the terminal: live where somebody watches, a plain line per change where not."""

import sys
from collections.abc import Sequence
from types import TracebackType
from typing import Self, TextIO

from rich.console import Console
from rich.live import Live
from rich.table import Table

from cli.stack.home import PartState

_COLOURS = {"ready": "green", "warming": "yellow", "starting": "yellow", "down": "red", "silent": "red"}


class Board:
    """Shows how the parts stand."""

    def __init__(self, out: TextIO | None = None) -> None:
        self._console = Console(file=out or sys.stderr, highlight=False)
        self._shown: dict[str, PartState] = {}
        self._live = Live(console=self._console, auto_refresh=False) if self._console.is_terminal else None

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def show(self, parts: Sequence[PartState]) -> None:
        if self._live:
            self._live.update(_table(parts), refresh=True)
            return
        for part in parts:
            if line_of(part) != line_of(self._shown.get(part.name)) and part.standing != "waiting":
                self.say(line_of(part))
            self._shown[part.name] = part

    def say(self, line: str) -> None:
        self._console.print(line, soft_wrap=True, markup=False)


def line_of(part: PartState | None) -> str:
    """How a part stands, as one line."""
    if part is None:
        return ""
    restarts = f"restarts {part.restarts}" if part.restarts else ""
    return "  ".join(word for word in (f"{part.name:<18}", f"{part.standing:<8}", restarts, part.note) if word).rstrip()


def _table(parts: Sequence[PartState]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column()
    table.add_column()
    table.add_column(overflow="ellipsis", no_wrap=True)
    for part in parts:
        pid = f"pid {part.pid}" if part.pid else ""
        restarts = f"restarts {part.restarts}" if part.restarts else ""
        colour = _COLOURS.get(part.standing, "dim")
        table.add_row(
            part.name, f"[{colour}]{part.standing}[/]", "  ".join(word for word in (pid, restarts, part.note) if word)
        )
    return table
