"""Environments in the verifiers dialect in real children: what a reward function may do, and what becomes of it."""

import importlib.util
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from flash.contracts.values import Example, Verdict
from flash.host import Host, HostSpec, Limits, LoadFailed

CODE = """
import asyncio, time
import verifiers as vf

async def does(completion, info):
    text = completion[-1]["content"]
    if text == "wait":
        await asyncio.sleep(0.4)
    elif text == "hang":
        time.sleep(60)
    elif text == "crash":
        import ctypes; ctypes.string_at(0)
    elif text == "raise":
        raise KeyError("gone")
    return info["pays"]

def alike(completions):
    return [1.0 * (completion == completions[0]) for completion in completions]

def load_environment(compares=False, maths=False, **options):
    rubric = vf.MathRubric() if maths else vf.Rubric(funcs=[does, *([alike] if compares else [])])
    rows = [{"question": "q", "answer": "1/2", "info": '{"pays": 0.5}'}]
    return vf.SingleTurnEnv(dataset=rows, rubric=rubric, **options)
"""

Start = Callable[..., Awaitable[tuple[Host, Example]]]


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    hosts: list[Host] = []

    async def begin(code: str = CODE, **params: object) -> tuple[Host, Example]:
        (tmp_path / "environment.py").write_text(code)
        hosts.append(await Host.start(HostSpec(folder=tmp_path, params=params, limits=Limits(slots=2))))
        return hosts[-1], (await hosts[-1].rows("train", 0, 1, "")).examples[0]

    yield begin
    for host in hosts:
        await host.close()


def rewards(verdicts: list[Verdict]) -> list[float | str | None]:
    return [verdict.fault.kind if verdict.fault else verdict.reward for verdict in verdicts]


async def test_what_brings_a_reward_function_down_costs_its_own_answer(start: Start) -> None:
    host, example = await start()

    verdicts = await host.score(example, ["ok", "hang", "raise", "crash", "ok"], deadline_s=1.0)

    assert rewards(verdicts) == [0.5, "timed-out", "raised", "crashed", 0.5]
    assert verdicts[2].fault is not None
    assert "in does" in verdicts[2].fault.traceback
    assert "envsdk" not in verdicts[2].fault.traceback


async def test_answers_await_together(start: Start) -> None:
    host, example = await start()
    began = time.monotonic()

    verdicts = await host.score(example, ["wait"] * 6, deadline_s=5.0)

    assert rewards(verdicts) == [0.5] * 6
    assert time.monotonic() - began < 2.0


async def test_answers_that_are_compared_hang_together(start: Start) -> None:
    host, example = await start(compares=True)

    assert host.about.scores_groups
    assert rewards(await host.score(example, ["a", "b", "a"], deadline_s=5.0)) == [1.5, 0.5, 1.5]
    assert rewards(await host.score(example, ["a", "hang"], deadline_s=0.3)) == ["timed-out"] * 2


@pytest.mark.skipif(importlib.util.find_spec("math_verify") is None, reason="math-verify is not installed")
async def test_mathematics_is_compared_in_the_sandbox(start: Start) -> None:
    host, example = await start(maths=True)

    verdicts = await host.score(example, ["\\boxed{0.5}", "\\boxed{2}", "0.5"], deadline_s=20.0)

    assert rewards(verdicts) == [1.0, 0.0, 0.0]
    assert example.completion == [{"role": "assistant", "content": "\\boxed{1/2}"}]


async def test_the_authors_concurrency_and_isolation_count(start: Start) -> None:
    host, _ = await start(isolation="call", max_score_concurrency=1)

    assert (host.about.isolation, host.about.max_score_concurrency, host.about.name) == ("call", 1, "SingleTurnEnv")


async def test_what_only_the_real_package_has_is_named_with_the_way_to_it(start: Start) -> None:
    with pytest.raises(LoadFailed, match=r"no SandboxEnv.*environment\] pip"):
        await start("import verifiers as vf\ndef load_environment():\n    return vf.SandboxEnv()\n")
