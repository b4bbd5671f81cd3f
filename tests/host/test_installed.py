"""Packages of the real `verifiers` in real children: what their code may do, and what becomes of it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from flash.artifacts import pack, unpack
from flash.contracts.values import Example, Verdict
from flash.host import Host, HostSpec, Limits

PACKAGE = """
import time
import verifiers as vf
from datasets import Dataset, load_dataset
from math_verify import parse, verify

def does(completion):
    text = completion[-1]["content"]
    if text == "hang":
        time.sleep(60)
    elif text == "crash":
        import ctypes; ctypes.string_at(0)
    elif text == "raise":
        raise KeyError("gone")
    return 0.5

def half(completion):
    return verify(parse("\\\\boxed{1/2}"), parse(completion[-1]["content"]))  # by alarms: on the main thread only

class Echo(vf.MultiTurnEnv):
    async def env_response(self, messages, state, **kwargs):
        if messages[-1]["content"] == "crash":
            import ctypes; ctypes.string_at(0)
        return [{"role": "user", "content": "so " + messages[-1]["content"]}]

def load_environment(turns=1, answers=1):
    rows = Dataset.from_list([{"question": "q", "answer": "1/2", "info": {"k": [1, 2]}}] * answers)
    if turns > 1:
        return Echo(dataset=rows, rubric=vf.Rubric([half]), max_turns=turns)
    rubric = vf.RubricGroup([vf.Rubric([does, half]), vf.MathRubric()])
    def held_out():  # through the cache of `datasets`
        return load_dataset("json", data_files="held_out.jsonl", split="train")

    return vf.SingleTurnEnv(dataset=rows, eval_dataset=held_out, rubric=rubric)
"""

Start = Callable[..., Awaitable[tuple[Host, Example]]]

pytestmark = pytest.mark.slow


@pytest.fixture
async def start(verifiers_set: Path, tmp_path: Path) -> AsyncIterator[Start]:
    hosts: list[Host] = []

    async def begin(**params: object) -> tuple[Host, Example]:
        folder = tmp_path / "half-of-it"
        folder.mkdir()
        (folder / "half_of_it.py").write_text(PACKAGE)
        (folder / "held_out.jsonl").write_text('{"question": "unseen", "answer": "1/2"}\n')
        (folder / "pyproject.toml").write_text('[project]\nname = "half-of-it"\ndependencies = ["verifiers<0.4"]\n')
        packed = pack(folder)
        unpack(packed.file, tmp_path / "unpacked", packed.digest)
        spec = HostSpec(folder=tmp_path / "unpacked", params=params, requirements=verifiers_set, limits=Limits(slots=2))
        hosts.append(await Host.start(spec))
        return hosts[-1], (await hosts[-1].rows("train", 0, 1, "be brief")).examples[0]

    yield begin
    for host in hosts:
        await host.close()


def rewards(verdicts: list[Verdict]) -> list[float | str | None]:
    return [verdict.fault.kind if verdict.fault else verdict.reward for verdict in verdicts]


async def test_one_turn_is_scored_by_the_packages_rubric_and_failures_cost_their_own_answer(start: Start) -> None:
    host, example = await start()

    assert (host.about.name, host.about.multi_turn, host.about.splits) == ("SingleTurnEnv", False, ["train", "eval"])
    assert example.messages == [{"role": "system", "content": "be brief"}, {"role": "user", "content": "q"}]
    assert example.completion == [{"role": "assistant", "content": "1/2"}]
    assert example.record["info"] == {"k": [1, 2]}

    assert [row.input for row in (await host.rows("eval", 0, 9, "")).examples] == ["unseen"]

    texts = ["ok", "hang", "raise", "crash", "\\boxed{0.5}", ""]
    verdicts = await host.score(example, texts, deadline_s=8.0)

    assert rewards(verdicts) == [0.5, "timed-out", "raised", "crashed", 2.5, 0.5]
    assert {metric.name: metric.score for metric in verdicts[4].metrics} == {
        "does": 0.5, "half": 1.0, "correct_answer": 1.0, "num_turns": 1.0,
    }  # fmt: skip
    assert verdicts[2].fault is not None
    assert "half_of_it.py" in verdicts[2].fault.traceback
    assert "envsdk" not in verdicts[2].fault.traceback


async def test_episodes_are_driven_by_whoever_asks_and_scored_on_the_main_thread(start: Start) -> None:
    host, example = await start(turns=3)

    assert (host.about.multi_turn, example.max_turns) == (True, 3)
    episodes = await host.episodes(example, 3, prompt_text="be brief", deadline_s=20.0)
    openings = await episodes.start()
    assert [opening.messages for opening in openings] == [example.messages] * 3

    first = await asyncio.gather(*(episodes.step(index, f"{index}") for index in range(3)))
    assert [(stepped.messages[0]["content"], stepped.done) for stepped in first] == [
        (f"so {index}", False) for index in range(3)
    ]
    for text in ("and", "\\boxed{0.5}"):
        last = await episodes.step(0, text)
    assert (last.messages, last.done) == ([], True)

    verdicts = await episodes.score([0, 1])
    assert [verdict.reward for verdict in verdicts if verdict] == [1.0, 0.0]
    await episodes.close()


async def test_a_large_dataset_is_rendered_without_a_rollout_for_each_row(start: Start) -> None:
    host, _ = await start(answers=20_000)

    page = await host.rows("train", 19_000, 1_000, "")

    assert (page.total, page.examples[-1].id) == (20_000, "example_019999")
