"""`evaluations.py` in a real child: its cases are rows, and its suites score the answers."""

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from cli.evaluation import held_out
from flash.host import Host, HostSpec, LoadFailed

ENVIRONMENT = """
from envsdk import EnvironmentSingleTurn

class Exact(EnvironmentSingleTurn):
    def build_prompt_messages(self, example, prompt_text):
        return [{"role": "user", "content": f"Q: {example.input}"}]
    def normalize_response_text(self, example, text):
        return text.strip()
    def score_response(self, example, text):
        return float(text == example.output)

def load_environment(colour="red"):
    return Exact()
"""
EVALUATIONS = """
from envsdk import EnvironmentEvalSuite, EvalSuite, RewardResult, TaskExample
from environment import load_environment

class Shouting(EvalSuite):
    name = "shouting"
    def __init__(self, words):
        self.words = words
    def cases(self):
        return [TaskExample(record={"own": word}, input=word, id=f"case-{word}") for word in self.words]
    def score(self, case, text):
        assert case.id == f"case-{case.record['own']}", "the suite's own case"
        if text == "raise":
            raise ValueError("odd")
        return RewardResult(score=float(text == case.input.upper()))

def load_evaluations(words=("a", "b")):
    return [Shouting(words), EnvironmentEvalSuite(load_environment(), [{"input": "2+2", "output": "4"}], name="sums")]
"""

Start = Callable[..., Awaitable[Host]]


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    hosts: list[Host] = []
    (tmp_path / "environment.py").write_text(ENVIRONMENT)
    (tmp_path / "evaluations.py").write_text(EVALUATIONS)
    (tmp_path / "train.jsonl").write_text('{"input": "1+1", "output": "2"}\n')

    async def begin(**params: object) -> Host:
        hosts.append(await Host.start(HostSpec(folder=tmp_path, params=params)))
        return hosts[-1]

    yield begin
    for host in hosts:
        await host.close()


async def test_each_suite_asks_and_scores_its_own_cases(start: Start) -> None:
    host = await start(split="suites", colour="blue")

    page = await host.rows("suites", 0, 10, "")
    shouted = await host.score(page.examples[1], ["B", "b", "raise"], deadline_s=10.0)
    summed = await host.score(page.examples[2], [" 4 "], deadline_s=10.0)

    assert [example.messages[0]["content"] for example in page.examples] == ["Q: a", "Q: b", "Q: 2+2"]
    assert [verdict.reward for verdict in (*shouted, *summed)] == [1.0, 0.0, None, 1.0]
    assert [[(m.name, m.score) for m in verdict.metrics] for verdict in (shouted[0], summed[0])] == [
        [("shouting", 1.0)], [("sums", 1.0)],
    ]  # fmt: skip
    assert shouted[2].fault is not None
    assert shouted[2].fault.message == "ValueError: odd"


async def test_a_suite_is_a_split_of_its_name(start: Start) -> None:
    host = await start(split="shouting")

    assert [example.input for example in (await host.rows("shouting", 0, 10, "")).examples] == ["a", "b"]
    with pytest.raises(LoadFailed, match=r"no dataset/whispering.jsonl"):
        await (await start(split="whispering")).rows("whispering", 0, 1, "")


async def test_a_run_leaves_suites_alone_and_a_push_looks_through_them(start: Start) -> None:
    host = await start()

    assert host.about.splits == ["train", "suites"]
    assert await host.check("suites", "") == 3
    assert (await host.rows("train", 0, 1, "")).total == 1


def test_an_evaluation_plays_suites_first_then_rows_that_were_kept_for_it() -> None:
    assert held_out(["train", "eval", "suites"]) == "suites"
    assert held_out({"train": 2, "eval": 1}) == "eval"
    assert held_out(["train"]) is None
