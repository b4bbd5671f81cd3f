"""The supervisor in the background; its options come on stdin, as JSON."""

import asyncio
import sys

import msgspec

from cli.stack.options import Options
from cli.stack.running import supervise
from flash.errors import FlashError

if __name__ == "__main__":
    try:
        sys.exit(asyncio.run(supervise(msgspec.json.decode(sys.stdin.buffer.read(), type=Options))))
    except FlashError as error:
        sys.exit(str(error))
