"""What people and programs read: data on stdout, notes on stderr; tables on a terminal, JSON on a pipe."""

import json
import os
import shutil
import sys
import textwrap
from argparse import Namespace
from collections.abc import Sequence
from typing import Any, TextIO

_ASCII = str.maketrans(
    {"±": "+/-", "×": "x", "→": "->", "·": "-", "…": "...", "├": "|", "└": "`", "─": "-", "│": "|"}
    | dict(zip("▁▂▃▄▅▆▇█", "_.-=+*%#", strict=True))
)


def wants_json(options: Namespace) -> bool:
    return bool(options.json) or not sys.stdout.isatty()


def data(value: Any) -> None:
    """A value as JSON."""
    print(json.dumps(value, indent=2, ensure_ascii=not _writes_unicode(sys.stdout)), flush=True)


def line(text: str) -> None:
    """One line of data."""
    print(_fit(text, sys.stdout), flush=True)


def note(text: str) -> None:
    """Something a person may want to know."""
    print(_fit(text, sys.stderr), file=sys.stderr, flush=True)


def field(name: str, value: str, *, width: int = 12) -> list[str]:
    """`name        value`, as many lines of at most 80 columns as it takes."""
    wrapped = textwrap.wrap(value, 80 - width, break_long_words=False, break_on_hyphens=False) or [""]
    return [f"{head:<{width}}{text}" for head, text in zip([name, *[""] * len(wrapped)], wrapped, strict=False)]


def table(columns: Sequence[str], rows: Sequence[Sequence[object]], *, spare: Sequence[str] = ()) -> None:
    """Rows for a person; says so when there are none.

    The first column is never cut. Where the terminal is too narrow for all, those of `spare` go, the first one first.
    """
    if not rows:
        note("nothing there yet")
        return
    cells = [[_fit(str(cell), sys.stdout) for cell in row] for row in rows]
    width = shutil.get_terminal_size().columns
    kept = _kept(columns, cells, spare, width)
    lines = [[row[at] for at in kept] for row in (columns, *cells)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    if sum(widths) + 2 * (len(widths) - 1) > width or not all(cell.isascii() for row in cells for cell in row):
        _folded(lines, width)
        return
    head, *body = ("  ".join(f"{cell:<{w}}" for cell, w in zip(row, widths, strict=True)).rstrip() for row in lines)
    print(f"\033[1m{head}\033[0m" if _is_styled() else head)
    print("\n".join(body), flush=True)


def _folded(lines: Sequence[Sequence[str]], width: int) -> None:
    """A table whose cells must be folded, or measured; rich can, and takes a tenth of a second to load."""
    from rich.console import Console
    from rich.table import Table

    shown = Table(box=None, pad_edge=False, header_style="bold")
    for at, column in enumerate(lines[0]):
        shown.add_column(column, overflow="fold", no_wrap=at == 0)
    for row in lines[1:]:
        shown.add_row(*row)
    Console(highlight=False, markup=False, width=width).print(shown)


def _is_styled() -> bool:
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM", "dumb") not in ("dumb", "unknown")


def _kept(columns: Sequence[str], rows: Sequence[Sequence[str]], spare: Sequence[str], width: int) -> list[int]:
    """Which columns are shown."""
    widths = [max(len(cell) for cell in column) + 2 for column in zip(columns, *rows, strict=True)]
    kept = list(range(len(columns)))
    for name in spare:
        if sum(widths[at] for at in kept) - 2 <= width:
            break
        kept.remove(columns.index(name))
    return kept


def ago(seconds: float) -> str:
    """A span of time in its two largest units: `1h 04m`, `2m 05s`, `8s`."""
    whole = max(0, round(seconds))
    if whole >= 86_400:
        return f"{whole // 86_400}d {whole % 86_400 // 3_600:02d}h"
    if whole >= 3_600:
        return f"{whole // 3_600}h {whole % 3_600 // 60:02d}m"
    if whole >= 60:
        return f"{whole // 60}m {whole % 60:02d}s"
    return f"{whole}s"


def size(num_bytes: int) -> str:
    if num_bytes < 1024:
        return f"{num_bytes} B"
    return f"{num_bytes / 1024:.1f} KiB" if num_bytes < 1024**2 else f"{num_bytes / 1024**2:.1f} MiB"


def _fit(text: str, stream: TextIO) -> str:
    if _writes_unicode(stream):
        return text
    return text.translate(_ASCII).encode("ascii", "replace").decode()


def _writes_unicode(stream: TextIO) -> bool:
    behind = getattr(stream, "rich_proxied_file", stream)  # what stands before it says nothing of its encoding
    return (behind.encoding or "").lower().replace("-", "") in ("utf8", "utf16", "utf32")
