"""examples/judge, against its own stand-in for a judge."""

import importlib.util
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from flash.contracts.values import Example, Verdict
from flash.host import Host, HostSpec, Limits

JUDGE = Path(__file__).parents[2] / "examples" / "judge"
SHIPPED = "127.0.0.1:8123"
"""Where the configs expect the judge."""


@dataclass
class Judge:
    """A server, and what it was asked."""

    url: str
    asked: list[str] = field(default_factory=list)
    say: Callable[[str], str] | None = None
    """In place of what the stand-in says."""


@pytest.fixture
def judge() -> Iterator[Judge]:
    spec = importlib.util.spec_from_file_location("stand_in", JUDGE / "stand_in.py")
    assert spec is not None
    assert spec.loader is not None
    stand_in: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(stand_in)
    grade = stand_in.grade
    with ThreadingHTTPServer(("127.0.0.1", 0), stand_in.Judge) as server:
        found = Judge(f"http://127.0.0.1:{server.server_port}/v1")

        def noted(question: str) -> str:
            found.asked.append(question)
            said: str = (found.say or grade)(question)
            return said

        stand_in.grade = noted
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield found
        server.shutdown()
        thread.join()


async def scored(url: str, *answers: str) -> tuple[Example, list[Verdict]]:
    """The first row, and what these answers to it are worth; `{gold}` stands for the right one."""
    network = [urlsplit(url).netloc]
    host = await Host.start(HostSpec(folder=JUDGE, params={"judge_url": url}, network=network, limits=Limits(slots=1)))
    try:
        example = (await host.rows("train", 0, 1, "")).examples[0]
        texts = [text.format(gold=example.record["answer"]) for text in answers]
        return example, await host.score(example, texts, deadline_s=10.0)
    finally:
        await host.close()


def test_env_test_finds_nothing_while_the_judge_is_up(judge: Judge, tested: Any, tmp_path: Path) -> None:
    config = tmp_path / "rl.toml"
    config.write_text((JUDGE / "configs" / "rl.toml").read_text().replace(SHIPPED, urlsplit(judge.url).netloc))

    found = tested("judge", "--config", str(config), "--rows", "8")

    assert found["findings"] == []
    assert found["covered"]["metrics"] == ["graded", "plausible", "exact"]


async def test_the_judge_is_asked_once_and_only_about_what_passes_the_checks(judge: Judge) -> None:
    example, verdicts = await scored(judge.url, "{gold}", "{gold}", "", "0 1", "{gold}!", "{gold} {gold}", "8 7 6 4 0")

    assert example.record == {"question": "Sort: 6 0 4 8 7", "answer": "0 4 6 7 8"}
    assert [verdict.reward for verdict in verdicts] == [1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    assert [verdict.success for verdict in verdicts] == [True, True, *[False] * 5]
    assert sorted(asked.splitlines()[3] for asked in judge.asked) == ["Answered: 0 4 6 7 8", "Answered: 8 7 6 4 0"]
    assert all("Asked: Sort: 6 0 4 8 7" in asked for asked in judge.asked)


async def test_an_order_that_is_partly_right_earns_a_part(judge: Judge) -> None:
    _, verdicts = await scored(judge.url, "0 4 6 8 7", "6 0 4 8 7")

    assert [verdict.reward for verdict in verdicts] == [0.7, 0.5]


@pytest.mark.parametrize("said", ["", "perfect", "11", "-3"])
async def test_a_judge_that_says_no_grade_is_a_fault(judge: Judge, said: str) -> None:
    judge.say = lambda question: said

    _, (of_gold, of_junk) = await scored(judge.url, "{gold}", "junk")

    assert of_gold.reward is None
    assert of_gold.fault is not None
    assert "wanted a number from 0 to 10" in of_gold.fault.message
    assert of_junk.reward == 0.0


async def test_a_judge_that_is_down_is_a_fault_and_never_a_zero(unused_tcp_port: int) -> None:
    _, (of_gold, of_junk) = await scored(f"http://127.0.0.1:{unused_tcp_port}/v1", "{gold}", "junk")

    assert of_gold.reward is None
    assert of_gold.fault is not None
    assert of_gold.fault.message.startswith("JudgeError: the judge 'judge' cannot be asked")
    assert of_junk.reward == 0.0


@pytest.mark.long
def test_the_policy_learns_what_the_judge_likes(judge: Judge, published: Callable[..., Any]) -> None:
    project = published("judge", swap=(SHIPPED, urlsplit(judge.url).netloc))
    sft = project.train("configs/sft.toml")
    grpo = project.train("configs/rl.toml", "--set", f"train.init_from_adapter={sft}")

    before, after = (
        project.evaluated(run, "-n", "64", "-r", "4", "--temperature", "1.0", "--max-tokens", "24")
        for run in (sft, grpo)
    )

    assert (before["faults"], after["faults"]) == (0, 0)
    assert before["success"] < 0.65
    assert after["success"] > 0.80
    assert after["reward"] > 0.90
