"""Episodes in real children: what an author's code may do in the middle of one, and what becomes of the others."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from flash.contracts.values import Example, Verdict
from flash.host import Episodes, EpisodesLost, Host, HostSpec, Limits

OBEDIENT = """
import os, threading, time
from envsdk import EnvironmentMultiTurn, EnvironmentStepResult, RewardResult

class Obedient(EnvironmentMultiTurn):
    dataset = ["q"]
    opening, compares = "", False
    def start_episode(self, example, prompt_text):
        exec(self.opening)
        return [{"role": "user", "content": example.input}]
    def max_episode_turns(self, example):
        return example.metadata.get("turns", 3)
    def step_episode(self, example, messages, text):
        print("did", text)
        if text.startswith("do "):
            exec(text[3:])
        return EnvironmentStepResult(done=text == "stop", messages=({"role": "user", "content": "on"},))
    def score_episode(self, example, episode):
        if episode.response_text.startswith("score "):
            exec(episode.response_text[6:])
        return RewardResult(score=len(episode.messages) - 1)

class Comparing(Obedient):
    def score_episodes(self, example, episodes):
        exec(episodes[0].response_text.removeprefix("score ") if episodes[0].response_text[:6] == "score " else "")
        return [float(len(episodes))] * len(episodes)

def load_environment(compares=False, **attributes):
    env = Comparing() if compares else Obedient()
    for name, value in attributes.items():
        setattr(env, name, value)
    return env
"""

EXAMPLE = Example(index=0, id="example_000000", input="q", record={"input": "q"}, max_turns=3)

Open = Callable[..., Awaitable[Episodes]]


@pytest.fixture
async def host_of(tmp_path: Path) -> AsyncIterator[Callable[..., Awaitable[Host]]]:
    hosts: list[Host] = []

    async def begin(limits: Limits | None = None, **params: Any) -> Host:
        folder = tmp_path / f"env-{len(hosts)}"
        folder.mkdir()
        (folder / "environment.py").write_text(OBEDIENT)
        hosts.append(await Host.start(HostSpec(folder=folder, params=params, limits=limits or Limits())))
        return hosts[-1]

    yield begin
    for host in hosts:
        await host.close()


async def opened(host: Host, count: int = 2, deadline_s: float = 5.0, **given: Any) -> Episodes:
    episodes = await host.episodes(EXAMPLE, count, prompt_text="", deadline_s=deadline_s, **given)
    await episodes.start()
    return episodes


def rewards(verdicts: list[Verdict | None]) -> list[float | str | None]:
    return [verdict and (verdict.fault.kind if verdict.fault else verdict.reward) for verdict in verdicts]


async def test_a_group_is_opened_stepped_and_scored_in_one_process(host_of: Any) -> None:
    host = await host_of()
    episodes = await opened(host, 3)

    pids = [await episodes.step(index, "do print(os.getpid())") for index in range(3)]
    await episodes.step(0, "stop")
    scored = await episodes.score([0, 1, 2])
    await episodes.close()

    assert [stepped.fault for stepped in pids] == [None] * 3
    assert rewards(scored) == [4.0, 2.0, 2.0]
    assert len({verdict.output.split("\n")[1] for verdict in scored if verdict}) == 1


async def test_what_an_episode_leaves_on_the_environment_is_gone_with_its_group(host_of: Any) -> None:
    host = await host_of()
    first, second = await opened(host), await opened(host)
    await first.step(0, "do self.left = 1")

    left = await first.step(1, "do self.left")
    elsewhere = await second.step(0, "do self.left")

    assert left.fault is None
    assert elsewhere.fault is not None
    assert "has no attribute 'left'" in elsewhere.fault.message
    for episodes in (first, second):
        await episodes.close()


async def test_a_raise_ends_its_episode_and_no_other(host_of: Any) -> None:
    episodes = await opened(await host_of())

    failed, other = await asyncio.gather(episodes.step(0, "do 1 / 0"), episodes.step(1, "stop"))

    assert failed.done
    assert failed.fault is not None
    assert 'File "environment.py"' in failed.fault.traceback
    assert rewards(await episodes.score([1])) == [2.0]
    assert other.fault is None
    await episodes.close()


@pytest.mark.parametrize("last", ["do os._exit(3)", "do os.abort()", "do os.kill(os.getpid(), 9)"])
async def test_a_process_that_dies_loses_its_episodes_and_the_host_goes_on(host_of: Any, last: str) -> None:
    host = await host_of()
    episodes, beside = await opened(host), await opened(host)

    for index in (0, 1):
        with pytest.raises(EpisodesLost, match="the process that played the episodes ended"):
            await episodes.step(index, last)

    assert await episodes.score([0, 1]) == [None, None]
    assert (await beside.step(0, "stop")).fault is None
    await beside.close()


async def test_a_step_that_hangs_is_named_and_the_others_are_lost(host_of: Any) -> None:
    episodes = await opened(await host_of(), deadline_s=0.5)

    slow, quick = await asyncio.gather(episodes.step(0, "do time.sleep(3600)"), episodes.step(1, "a"))

    assert slow.fault is not None
    assert (slow.fault.kind, slow.fault.message) == ("timed-out", "step_episode: no answer within 0.5 s")
    assert quick.fault is None
    with pytest.raises(EpisodesLost):
        await episodes.step(1, "b")


async def test_an_opening_that_hangs_is_a_fault_of_all_that_open_alike(host_of: Any) -> None:
    host = await host_of(opening="time.sleep(3600)")
    episodes = await host.episodes(EXAMPLE, 3, prompt_text="", deadline_s=0.5)

    openings = await episodes.start()

    assert [opening.fault.kind for opening in openings if opening.fault] == ["timed-out"] * 3


@pytest.mark.parametrize(("count", "found"), [(1, "limit-exceeded"), (2, "lost")])
async def test_an_episode_alone_is_to_blame_for_what_it_uses_up(host_of: Any, count: int, found: str) -> None:
    episodes = await opened(await host_of(), count, deadline_s=20.0)
    busy = (
        "do if 1:\n resource = __import__('resource')\n resource.setrlimit(resource.RLIMIT_CPU, (1, 2))\n while 1: pass"
    )

    if found == "lost":
        with pytest.raises(EpisodesLost, match="used up its CPU time"):
            await episodes.step(0, busy)
    else:
        stepped = await episodes.step(0, busy)
        assert stepped.fault is not None
        assert stepped.fault.kind == found


async def test_a_scoring_that_dies_leaves_the_verdicts_that_were_told(host_of: Any) -> None:
    episodes = await opened(await host_of(max_score_concurrency=1), 3)
    for index, text in enumerate(("a", "score os._exit(3)", "b")):
        await episodes.step(index, text)

    assert rewards(await episodes.score([0, 1, 2])) == [2.0, None, None]


async def test_compared_episodes_are_scored_in_one_call_and_fail_together(host_of: Any) -> None:
    host = await host_of(compares=True)
    well, badly = await opened(host), await opened(host)
    for episodes, text in ((well, "a"), (badly, "score 1 / 0")):
        for index in (0, 1):
            await episodes.step(index, text)

    assert (well.compared, rewards(await well.score([0, 1]))) == (True, [2.0, 2.0])
    assert rewards(await badly.score([0, 1])) == ["raised", "raised"]
    for episodes in (well, badly):
        await episodes.close()


async def test_steps_run_side_by_side_up_to_what_the_environment_allows(host_of: Any) -> None:
    took_s = []
    for at_once in (4, 1):
        episodes = await opened(await host_of(max_score_concurrency=at_once), 4)
        began = time.monotonic()
        await asyncio.gather(*(episodes.step(index, "do time.sleep(0.2)") for index in range(4)))
        took_s.append(time.monotonic() - began)
        await episodes.close()

    assert took_s[0] < 0.6
    assert took_s[1] >= 0.8


async def test_an_answer_too_large_to_be_taken_is_a_fault(host_of: Any) -> None:
    episodes = await opened(await host_of())

    stepped = await episodes.step(0, "do text = 'x' * (2 << 20); raise ValueError(text)")
    assert stepped.fault is not None
    assert len(stepped.fault.message) < 3_000
    await episodes.close()


async def test_more_groups_than_there_is_room_for_wait_for_one_to_close(host_of: Any) -> None:
    host = await host_of(limits=Limits(slots=1, episodes=1))
    first, second = await opened(host), await opened(host)
    waiting = asyncio.create_task(opened(host))
    await asyncio.sleep(0.1)
    assert not waiting.done()

    await first.close()

    third = await asyncio.wait_for(waiting, 5)
    assert (await third.step(0, "stop")).fault is None
    for episodes in (second, third):
        await episodes.close()


async def test_a_closed_group_leaves_no_process_behind(host_of: Any) -> None:
    host = await host_of()
    episodes = await opened(host)
    await episodes.step(0, "do __import__('subprocess').Popen(['sleep', '3600.75'])")

    await episodes.close()

    assert running("3600.75") == []


def running(marker: str) -> list[Path]:
    """Processes with this in their command line."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            found += [entry] if marker.encode() in entry.read_bytes() else []
    return found


async def test_a_host_that_dies_loses_its_episodes_and_opens_new_ones(host_of: Any) -> None:
    host = await host_of()
    episodes = await opened(host)
    host._link._cell.kill()

    with pytest.raises(EpisodesLost):
        await episodes.step(0, "a")

    again = await opened(host)
    assert (await again.step(0, "stop")).fault is None
    await again.close()
