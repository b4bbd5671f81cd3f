"""The same attacks from the middle of an episode: they may do no more there, and who plays beside is unharmed."""

import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from flash.contracts.values import Example, Verdict
from flash.errors import EnvironmentFault
from flash.host import Episodes, Host, HostSpec, Limits
from flash.host.child.frames import SPARES
from flash.host.sandbox.processes import descendants

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(sys.platform != "linux", reason="the walls are Linux's"),
]

LIMITS = Limits(
    slots=2, memory_bytes=256 << 20, host_bytes=512 << 20, scratch_bytes=32 << 20, cpu_s=20, file_bytes=64 << 20
)
EXAMPLE = Example(index=0, id="example_000000", input="q", record={"input": "q"}, max_turns=2)
DEADLINE_S = 4.0


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def host(world: Any, folder: Path) -> AsyncIterator[Host]:
    made = await Host.start(HostSpec(folder=folder, params={"world": world.told(), "in_episodes": True}, limits=LIMITS))
    yield made
    await made.close()


async def opened(host: Host) -> Episodes:
    episodes = await host.episodes(EXAMPLE, 1, prompt_text="", deadline_s=DEADLINE_S)
    await episodes.start()
    return episodes


async def played(episodes: Episodes, text: str) -> float | str | None:
    """The reward of an episode of one step, or the kind of its fault; `lost` with the process that played it."""
    try:
        stepped = await episodes.step(0, text)
    except EnvironmentFault:
        return "lost"
    if stepped.fault is not None:
        return stepped.fault.kind
    [verdict] = await episodes.score([0])
    return outcome(verdict)


async def played_anew(host: Host) -> float | str | None:
    episodes = await opened(host)
    found = await played(episodes, "ok")
    await episodes.close()
    return found


def outcome(verdict: Verdict | None) -> float | str | None:
    if verdict is None:
        return "lost"
    return verdict.fault.kind if verdict.fault else verdict.reward


@pytest.mark.attacks("FILES", "PROC", "NETWORK", "KERNEL", "SIGNALS", "RESOURCES", "CHANNEL")
async def test_an_episode_gets_nothing_and_harms_nobody(host: Host, world: Any, attack: str) -> None:
    beside, hostile = await opened(host), await opened(host)

    found = await played(hostile, attack)
    unharmed = await played(beside, "ok")
    await hostile.close()
    await beside.close()

    assert found in (0.0, 0.5, "limit-exceeded", "crashed", "timed-out", "lost")
    assert unharmed in (0.25, "lost")  # lost: by a host that was out of memory, and played again
    assert unharmed == 0.25 or found in ("lost", "limit-exceeded", "timed-out")  # time may be up before the memory is
    assert world.harm() == []
    assert len(descendants(host._link._process.pid)) <= 4 + SPARES
    assert await played_anew(host) == 0.25
