"""envsdk/verifiers/waiting.py: what is async, from code that is not."""

import asyncio
import os
import time
from typing import Any

import pytest

from envsdk.verifiers.waiting import Beside, wait, wait_all


async def gives(value: Any, after_s: float = 0.0) -> Any:
    if after_s:
        await asyncio.sleep(after_s)
    return value


def test_what_waits_for_something_waits_together() -> None:
    began = time.monotonic()

    assert wait_all(gives(number, after_s=0.1 * (number % 2)) for number in range(8)) == list(range(8))
    assert time.monotonic() - began < 0.35


def test_what_begins_before_the_loop_turns_is_a_task_like_any_other() -> None:
    async def bounded() -> str:
        async with asyncio.timeout(0.05):
            task = asyncio.current_task()
            assert task is not None
            try:
                await asyncio.sleep(10)
            except asyncio.CancelledError:
                assert asyncio.current_task() is task
                raise
        return "never"

    async def both() -> list[int]:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(gives(number)) for number in (1, 2)]
        return [task.result() for task in tasks]

    with pytest.raises(TimeoutError):
        wait(bounded())
    assert wait(both()) == [1, 2]


def test_a_thread_keeps_its_loop_and_a_fork_has_its_own() -> None:
    async def here() -> int:
        return id(asyncio.get_running_loop())

    first = wait(here())
    assert wait(here()) == first
    if (child := os.fork()) == 0:
        os._exit(wait(here()) == first or wait(gives(7, after_s=0.01)) != 7)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert wait(gives(1, after_s=0.01)) == 1


@pytest.mark.parametrize("raised", [KeyError("gone"), SystemExit(3)])
def test_what_is_raised_is_raised_here_and_the_next_is_none_the_worse(raised: BaseException) -> None:
    async def fails() -> None:
        raise raised

    with pytest.raises(type(raised)):
        wait(fails())
    assert wait(gives(1, after_s=0.01)) == 1


async def test_it_is_not_for_what_is_async_itself() -> None:
    work = gives(1)

    with pytest.raises(RuntimeError, match="cannot be called from what is async"):
        wait(work)
    work.close()


@pytest.mark.parametrize("together", [True, False])
def test_beside_a_thread_all_share_one_loop(together: bool) -> None:
    beside = Beside(together=together)

    async def here() -> int:
        return id(asyncio.get_running_loop())

    assert beside.wait(here()) == beside.wait(here())
    with pytest.raises(SystemExit):
        beside.wait(_exits())
    assert beside.wait(gives(2)) == 2


async def _exits() -> None:
    raise SystemExit(1)
