"""The supervisor in the background; its options come on stdin, as JSON."""

import asyncio
import sys

from cli.stack.options import unpacked
from cli.stack.running import supervise
from flash.errors import FlashError

if __name__ == "__main__":
    try:
        sys.exit(asyncio.run(supervise(unpacked(sys.stdin.buffer.read()))))
    except FlashError as error:
        sys.exit(str(error))
