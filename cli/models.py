"""`flash models`: the base models, fetching and removing them; `flash gpus`: what the pools compute on."""

import sys
from argparse import Namespace
from typing import TYPE_CHECKING

from cli import output
from flash.errors import NotFound, Refused
from flash.models import ModelCard, cards, discard, folder, pool_of, pulled

if TYPE_CHECKING:
    from flash.client.serving import Member


def models(options: Namespace) -> None:
    if options.json:
        output.data([_told(card, options) for card in cards()])
    elif sys.stdout.isatty():
        output.table(
            ("MODEL", "SIZE", "MEMORY", "CONTEXT", "THINKING", "RANK", "HERE"),
            [
                (
                    c.name,
                    _count(c.parameters),
                    _size(c.memory_bytes),
                    f"{c.context:,}",
                    c.thinking,
                    c.max_lora_rank,
                    _here(c, options),
                )
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


async def rm(options: Namespace) -> None:
    place = pulled(options.model, options.home)
    await _require_unused(options.model, options)
    discard(place)
    if options.json:
        output.data({"model": options.model, "removed": True})
    else:
        output.line(f"{options.model} is removed; `flash models pull {options.model}` fetches it again")


async def _require_unused(model: str, options: Namespace) -> None:
    """Raises Refused where the stack of this machine serves it, or a run of it waits there."""
    from cli.stack import connection, serves

    if serves(options.home, pool_of(model)):
        raise Refused(f"the stack of this machine serves {model}: `flash down` first, and `flash up` without it")
    try:
        url = connection(options.home)
    except NotFound:  # no stack runs, and one that starts asks for its models itself
        return
    from cli.session import quiet
    from flash import client

    quiet(options)
    bus = await client.connect(lambda: url, {})
    try:
        live = (await client.runs(bus, states=("queued", "planning", "running"))).runs
    finally:
        await bus.close(0)
    if found := next((run for run in live if run.model == model), None):
        raise Refused(f"{found.run_id} is {found.state} and needs {model}: `flash cancel {found.run_id}` first")


async def gpus(options: Namespace) -> None:
    from cli.session import stack
    from flash import client

    async with stack(options) as bus:
        members = await client.pools(bus)
    if output.wants_json(options):
        output.data([_computes(member) for member in members])
        return
    output.table(
        ("ACCELERATOR", "MEMORY", "MODEL", "SERVICE", "REPLICA"),
        [
            (
                m.serving.accelerator or "none: the CPU",
                _size(m.serving.accelerator_bytes) if m.serving.accelerator else "",
                m.serving.model,
                m.service,
                m.replica,
            )
            for m in members
        ],
    )


def _computes(member: "Member") -> dict[str, object]:
    serving = member.serving
    return {
        "accelerator": serving.accelerator or None,
        "memory_bytes": serving.accelerator_bytes or None,
        "device": serving.device,
        "model": serving.model,
        "pool": serving.pool,
        "service": member.service,
        "replica": member.replica,
    }


def _told(card: ModelCard, options: Namespace) -> dict[str, object]:
    return {
        "model": card.name,
        "parameters": card.parameters,
        "context": card.context,
        "thinking": card.thinking,
        "max_lora_rank": card.max_lora_rank,
        "lora_targets": card.lora_targets,
        "memory_bytes": card.memory_bytes,
        "sft": dict(card.sft),
        "grpo": dict(card.grpo),
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


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.0f} MB"
