"""`flash up`, `down`, `ps`, `version`: the stack of this machine, and what runs in whichever stack is there."""

import time
from argparse import Namespace
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from cli import output


def up(options: Namespace) -> int:
    from cli import stack
    from flash.models import card

    return stack.up(
        stack.Options(
            home=options.home,
            models=tuple(card(model).name for model in options.models or _small_ones(options.home)),
            rollouts=options.rollouts,
            scorers=options.scorers,
            learners=options.learners,
            detach=options.detach,
        )
    )


def _small_ones(home: Path) -> list[str]:
    """What a stack serves unless somebody says otherwise: the models that starters name, as far as they are here."""
    from flash.errors import NotFound
    from flash.models import folder

    found = []
    for model in ("tiny", "smollm2-135m"):
        with suppress(NotFound):
            folder(model, home)
            found.append(model)
    return found


def down(options: Namespace) -> None:
    from cli import stack

    output.note("stopped" if stack.down(options.home) else f"nothing is running under {options.home}")


async def ps(options: Namespace) -> None:
    from cli import contexts
    from cli.session import stack
    from flash.contracts.access import may_operate

    async with stack(options) as bus:
        replicas = sorted(await bus.replicas(announced=True), key=lambda replica: (replica.service, replica.id))
        operates = may_operate(contexts.token(options))
        pools = sorted(await bus.pools(), key=lambda pool: pool.name) if operates else []
    if output.wants_json(options):
        output.data(
            {
                "replicas": [
                    {
                        "service": r.service,
                        "id": r.id,
                        "started_at": r.started_at,
                        "done": r.done,
                        "ready": r.is_ready,
                        "metadata": dict(r.metadata),
                    }
                    for r in replicas
                ],
                "pools": [asdict(pool) for pool in pools],
            }
        )
        return
    now = time.time()
    output.table(
        ("SERVICE", "REPLICA", "UP", "SERVES", "DONE"),
        [
            (
                r.service,
                r.metadata.get("replica", r.id),
                output.ago(now - r.started_at),
                r.metadata.get("pool", ""),
                r.done if r.is_ready else "warming",
            )
            for r in replicas
        ],
    )
    if not operates:
        return
    output.line("")
    output.table(
        ("WORK", "WAITING", "IN PROGRESS", "ASKING"), [(p.name, p.waiting, p.in_progress, p.asking) for p in pools]
    )


def version(options: Namespace) -> None:
    from importlib.metadata import version as installed

    found = installed("flash-rl")
    output.data({"version": found}) if options.json else output.line(f"flash {found}")
