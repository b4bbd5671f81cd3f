"""A process that has a package built and installed: `python -m ... FOLDER`."""

import asyncio
import sys
from pathlib import Path

from flash.host import RequirementSets

if __name__ == "__main__":
    print(asyncio.run(RequirementSets(Path(sys.argv[1]), builds=True).folder(["greeting"])))
