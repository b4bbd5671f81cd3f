"""A process that has a host, says who is in it, and does not come to an end: `python -m ... FOLDER [TEXT]`."""

import asyncio
import sys
from pathlib import Path

from flash.contracts.values import Example
from flash.host import Host, HostSpec


async def main() -> None:
    host = await Host.start(HostSpec(folder=Path(sys.argv[1])))
    example = Example(index=0, id="example_000000", input="q", record={"input": "q"})
    await host.score(example, [sys.argv[2]], deadline_s=100)


if __name__ == "__main__":
    asyncio.run(main())
