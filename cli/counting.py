"""`flash usage`: what an organisation's runs have used."""

from argparse import Namespace
from datetime import date

import msgspec

from cli import contexts, output
from cli.session import stack
from flash.client.usage import usage as used
from flash.contracts.access import may_operate
from flash.contracts.usage import UsageSum, Used
from flash.errors import ConfigError

COLUMNS = ("RUNS", "STEPS", "ROLLOUTS", "SAMPLED TOKENS", "TRAINED TOKENS")


async def usage(options: Namespace) -> None:
    if options.since:
        _check(options.since)
    async with stack(options) as bus:
        everybody = options.by == "org" and not options.org and may_operate(contexts.token(options))
        asked = UsageSum(org=None if everybody else options.org or bus.org, by=options.by, since=options.since)
        found = await used(bus, asked, most=options.limit or None)
    if output.wants_json(options):
        output.data({"by": options.by, **msgspec.to_builtins(found)})
        return
    rows = [(row.name, *_cells(row.used)) for row in found.rows]
    if len(rows) > 1:
        rows.append(("all", *_cells(found.total)))
    output.table((options.by.upper(), *COLUMNS), rows)
    if len(found.rows) < found.count:
        output.note(f"{len(found.rows)} of {found.count}; all of them: -n 0")


def _cells(used: Used) -> tuple[str, ...]:
    return tuple(f"{value:,}" for value in msgspec.structs.astuple(used))


def _check(day: str) -> None:
    try:
        is_day = date.fromisoformat(day).isoformat() == day
    except ValueError:
        is_day = False
    if not is_day:
        raise ConfigError(f"--since is {day!r}: it wants a day, for example 2026-11-21")
