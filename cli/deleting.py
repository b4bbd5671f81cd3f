"""`flash runs delete`: nothing of a run is left."""

import sys
from argparse import Namespace

from cli import output
from cli.session import stack
from flash import client
from flash.client import RunView
from flash.errors import ConfigError, Refused


async def delete_run(options: Namespace) -> None:
    async with stack(options) as bus:
        seen = await client.view(bus, options.run_id)
        if not seen.is_over:
            raise Refused(f"{seen.run_id} is {seen.state}: `flash cancel {seen.run_id}` first")
        if not options.yes:
            _ask(seen)
        await client.delete(bus, seen.run_id, say=output.note)
    if options.json:
        output.data({"run_id": seen.run_id, "deleted": True})
    else:
        output.line(f"deleted {seen.run_id}")
    output.note("its files go within moments; what it used stays in `flash usage`")


def _ask(seen: RunView) -> None:
    saves = len(seen.saves)
    what = f"{seen.run_id} ({seen.state}, {saves} checkpoint{'' if saves == 1 else 's'}) and all that it stored"
    if not sys.stdin.isatty():
        raise ConfigError(f"this would delete {what} for good: -y says that it shall, where nobody can be asked")
    print(f"delete {what}? Nothing brings it back. [y/N] ", end="", file=sys.stderr, flush=True)
    if input().strip().lower() not in ("y", "yes"):
        raise Refused("nothing was deleted")
