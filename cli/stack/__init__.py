"""The stack of one machine: nats-server, the S3 server and every service, as processes under one supervisor.

`up` starts it, `down` stops it, `connection` finds its bus. What a stack keeps lies in its home folder: see `home`.
"""

from pathlib import Path

from cli.stack.options import Options

__all__ = ["Options", "connection", "down", "is_starting", "up"]


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


def is_starting(home: Path, pool: str) -> bool:
    """The running stack of this home serves that pool, or will: one of its parts is on the way."""
    from cli.stack.home import Home

    stack = Home(home).running()
    parts = stack.parts if stack else ()
    return any(part.name.rpartition("-")[0] in (f"rollout-{pool}", f"learner-{pool}") for part in parts)


def connection(home: Path) -> str:
    """Where the bus of the running stack is. Raises NotFound, saying how to start one."""
    from cli.stack.home import Home

    return Home(home).connection()
