"""What runs have used, as the recorder has counted it."""

import msgspec

from flash.bus import Bus
from flash.client.asking import ask
from flash.contracts.usage import UsageSum, UsageSummed


async def usage(bus: Bus, asked: UsageSum, *, most: int | None = None) -> UsageSummed:
    """All rows, or the first so many, in as many answers as it takes."""
    found: UsageSummed = await ask(bus, asked)
    rows = list(found.rows)
    wanted = found.count if most is None else min(most, found.count)
    while found.rows and len(rows) < wanted:
        found = await ask(bus, msgspec.structs.replace(asked, offset=len(rows)))
        rows += found.rows
    return msgspec.structs.replace(found, rows=rows[:wanted])
