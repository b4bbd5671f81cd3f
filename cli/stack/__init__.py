"""The stack of one machine: nats-server, the S3 server and every service, as processes under one supervisor.

`up` starts it, `down` stops it, `connection` finds its bus. What a stack keeps lies in its home folder: see `home`.
"""

from collections.abc import Collection
from pathlib import Path

from cli.stack.options import Options
from flash.errors import FlashError

__all__ = ["Options", "connection", "down", "is_starting", "serves", "up"]


_DEATHS = 2
"""After so many in a row a part is not waited for."""
_LOG_LINES = 12


def up(options: Options) -> int:
    """Run the stack until Ctrl-C, SIGTERM or `down`; detached, return once it takes requests. Gives the exit code.

    Raises FlashError, before anything is started, when a stack already runs in this home, a model is not on this
    machine, or a program is missing.
    """
    from cli.stack import running

    return running.up(options)


def down(home: Path) -> bool:
    """Stop the stack of this home and wait until no process is left; False when there was none."""
    from cli.stack import running

    return running.down(home)


def is_starting(home: Path, pool: str, services: Collection[str]) -> bool:
    """The running stack of this home will have those services in that pool: their parts are on the way.

    Raises FlashError, with the end of its log, where every part of one of them dies again and again before it answers.
    """
    from cli.stack.home import Home, last_lines

    found = Home(home)
    stack = found.running()
    starting = False
    for service in services:
        parts = [part for part in stack.parts if part.name.rpartition("-")[0] == f"{service}-{pool}"] if stack else []
        if parts and all(part.deaths >= _DEATHS for part in parts):
            log = found.log(parts[0].name)
            raise FlashError(
                f"{parts[0].name} has died {parts[0].deaths} times in a row before it answered; {log} ends with\n"
                + "\n".join(last_lines(log, _LOG_LINES))
            )
        starting |= bool(parts)
    return starting


def serves(home: Path, pool: str) -> bool:
    """The running stack of this home has parts of that pool, well or not."""
    from cli.stack.home import Home

    stack = Home(home).running()
    return any(part.name.rpartition("-")[0].partition("-")[2] == pool for part in (stack.parts if stack else ()))


def connection(home: Path) -> str:
    """Where the bus of the running stack is. Raises NotFound, saying how to start one."""
    from cli.stack.home import Home

    return Home(home).connection()
