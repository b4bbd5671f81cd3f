"""Environments written for the original SDK, with the real `freesolo` package in their requirement set."""

import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from flash.host import Host, HostSpec

VERSION = "0.4.2"
COMMON = """
import freesolo
from freesolo.datasets import TaskExample, load_dataset
from freesolo.environments import (
    EnvironmentEpisode, EnvironmentMultiTurn, EnvironmentSingleTurn, EnvironmentStepResult, EnvironmentTurn,
    RewardMetric, RewardResult,
)

assert freesolo.__file__, "the real package"
"""
SINGLE = (
    COMMON
    + """
class Exact(EnvironmentSingleTurn):
    def __init__(self):
        self.dataset = load_dataset("dataset/train.jsonl")
    def build_prompt_messages(self, example, prompt_text):
        assert isinstance(example, TaskExample)
        return [{"role": "user", "content": example.input}]
    def score_response(self, example, response_text):
        assert isinstance(example, TaskExample)
        close = RewardMetric(name="long", score=float(len(response_text)))
        return RewardResult(score=float(response_text == example.output), threshold=1.0, metrics=(close,))

def load_environment():
    return Exact()
"""
)
MULTI = (
    COMMON
    + """
class Countdown(EnvironmentMultiTurn):
    def start_episode(self, example, prompt_text):
        assert isinstance(example, TaskExample)
        return [{"role": "user", "content": example.input}]
    def max_episode_turns(self, example):
        return 3
    def step_episode(self, example, messages, assistant_response):
        done = assistant_response == example.output
        return EnvironmentStepResult(done=done, messages=() if done else ({"role": "user", "content": "again"},))
    def score_episode(self, example, episode):
        assert isinstance(episode, EnvironmentEpisode) and isinstance(episode.turns[0], EnvironmentTurn)
        turns = [turn for turn in episode.to_dict()["turns"] if turn["role"] == "assistant"]
        return RewardResult(score=1 / len(turns), success=episode.response_text == example.output)

def load_environment():
    return Countdown()
"""
)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("requirements")
    folder.chmod(0o755)
    pip = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-deps"]
    done = subprocess.run(
        [*pip, "--target", str(folder), f"freesolo=={VERSION}"], capture_output=True, text=True, timeout=120
    )
    if done.returncode:
        pytest.skip(f"freesolo {VERSION} cannot be installed here")
    return folder


@pytest.fixture
async def start(tmp_path: Path, package: Path) -> AsyncIterator[Callable[[str], Awaitable[Host]]]:
    hosts: list[Host] = []

    async def begin(code: str) -> Host:
        (tmp_path / "environment.py").write_text(code)
        (tmp_path / "dataset").mkdir()
        (tmp_path / "dataset/train.jsonl").write_text('{"input": "q", "output": "a"}\n{"input": "r", "output": "b"}\n')
        hosts.append(await Host.start(HostSpec(folder=tmp_path, requirements=package)))
        return hosts[-1]

    yield begin
    for host in hosts:
        await host.close()


async def test_a_single_turn_environment_of_the_real_package_works(start: Callable[[str], Awaitable[Host]]) -> None:
    host = await start(SINGLE)

    page = await host.rows("train", 0, 10, "be brief")
    verdicts = await host.score(page.examples[1], ["b", "no"], deadline_s=10.0)

    assert page.total == 2
    assert page.examples[1].messages == [
        {"role": "system", "content": "be brief"}, {"role": "user", "content": "r"},
    ]  # fmt: skip
    assert page.examples[1].completion == [{"role": "assistant", "content": "b"}]
    assert [(verdict.reward, verdict.success) for verdict in verdicts] == [(1.0, True), (0.0, False)]
    assert verdicts[1].metrics[0].score == 2.0


async def test_an_episode_of_the_real_package_is_played_and_scored(start: Callable[[str], Awaitable[Host]]) -> None:
    host = await start(MULTI)
    example = (await host.rows("train", 0, 1, "")).examples[0]

    episodes = await host.episodes(example, 1, prompt_text="be brief", deadline_s=10.0)
    [opening] = await episodes.start()
    first = await episodes.step(0, "no")
    second = await episodes.step(0, "a")
    [verdict] = await episodes.score([0])
    await episodes.close()

    assert host.about.multi_turn
    assert example.max_turns == 3
    assert [message["role"] for message in opening.messages] == ["system", "user"]
    assert (first.done, [message["content"] for message in first.messages]) == (False, ["again"])
    assert second.done
    assert verdict is not None
    assert (verdict.reward, verdict.success) == (0.5, True)
