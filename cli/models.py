"""`flash models`: the base models, and fetching one before it is needed."""

import sys
from argparse import Namespace

from cli import output
from flash.errors import NotFound
from flash.models import ModelCard, cards, folder


def models(options: Namespace) -> None:
    if options.json:
        output.data([_told(card, options) for card in cards()])
    elif sys.stdout.isatty():
        output.table(
            ("MODEL", "PARAMETERS", "CONTEXT", "THINKING", "MAX RANK", "HERE"),
            [
                (c.name, _count(c.parameters), f"{c.context:,}", c.thinking, c.max_lora_rank, _here(c, options))
                for c in cards()
            ],
        )
    else:
        for card in cards():
            output.line(card.name)


def pull(options: Namespace) -> None:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    from flash.models import pull as fetch

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task(options.model, total=None)

        def show(done_bytes: int, total_bytes: int) -> None:
            bar.update(task, completed=done_bytes, total=total_bytes or None)

        place = fetch(options.model, options.home, show)
    if options.json:
        output.data({"model": options.model, "folder": str(place)})
    else:
        output.line(f"{options.model} is in {place}")


def _told(card: ModelCard, options: Namespace) -> dict[str, object]:
    return {
        "model": card.name,
        "parameters": card.parameters,
        "context": card.context,
        "thinking": card.thinking,
        "max_lora_rank": card.max_lora_rank,
        "here": _here(card, options) == "yes",
    }


def _here(card: ModelCard, options: Namespace) -> str:
    try:
        folder(card.name, options.home)
    except NotFound:
        return "no"
    return "yes"


def _count(parameters: int) -> str:
    return f"{parameters / 1e9:.1f} B" if parameters >= 1e9 else f"{parameters / 1e6:.0f} M"
