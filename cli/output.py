"""What people and programs read: data on stdout, notes on stderr; tables on a terminal, JSON on a pipe."""

import json
import sys
import textwrap
from argparse import Namespace
from collections.abc import Sequence
from typing import Any, TextIO

_ASCII = str.maketrans(
    {"±": "+/-", "×": "x", "→": "->", "█": "#", "·": "-", "…": "...", "├": "|", "└": "`", "─": "-", "│": "|"}
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


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Rows for a person; says so when there are none."""
    if not rows:
        note("nothing there yet")
        return
    from rich.console import Console
    from rich.table import Table

    shown = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        shown.add_column(column, overflow="fold")
    for row in rows:
        shown.add_row(*(_fit(str(cell), sys.stdout) for cell in row))
    Console(highlight=False, markup=False).print(shown)


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
