"""One process of a machine at a time: flash/locks.py."""

import asyncio
import sys
from pathlib import Path

from flash.locks import alone

HOLDS = """
import asyncio, sys
from pathlib import Path
from flash.locks import alone

async def hold():
    async with alone(Path(sys.argv[1])):
        print("held", flush=True)
        await asyncio.sleep(600)

asyncio.run(hold())
"""


async def test_who_comes_later_waits_and_may_give_up(tmp_path: Path) -> None:
    lock, came = tmp_path / "some/where/lock", asyncio.Event()

    async def later() -> None:
        async with alone(lock):
            came.set()

    async with alone(lock):
        first, second = asyncio.create_task(later()), asyncio.create_task(later())
        await asyncio.sleep(0.12)
        assert not came.is_set()
        first.cancel()

    async with asyncio.timeout(5):
        await second
    assert first.cancelled()


async def test_the_lock_of_a_process_that_was_killed_is_free(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    words = (sys.executable, "-c", HOLDS, str(lock))
    other = await asyncio.create_subprocess_exec(*words, stdout=asyncio.subprocess.PIPE)
    assert other.stdout
    assert await other.stdout.readline() == b"held\n"
    other.kill()

    async with asyncio.timeout(5), alone(lock):
        assert await other.wait() < 0
