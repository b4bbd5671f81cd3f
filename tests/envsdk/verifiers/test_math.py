"""Mathematical answers: what counts as the same, and what a hanging comparison costs."""

import asyncio
import importlib.util
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from envsdk import verifiers as vf
from envsdk.verifiers import math as vf_math
from envsdk.verifiers.errors import RewardError
from envsdk.verifiers.math import Worker

with_math_verify = pytest.mark.skipif(
    importlib.util.find_spec("math_verify") is None, reason="math-verify is not installed"
)


def score(rubric: vf.Rubric, answer: str, *texts: str) -> list[Any]:
    row = {"prompt": [], "answer": answer, "info": {}}
    states = [
        vf.State(input=row, completion=[vf.AssistantMessage(content=text)], task=row, trajectory=[], error=None)
        for text in texts
    ]
    asyncio.run(rubric.score_group(states))
    asyncio.run(rubric.teardown())
    return [state["reward"] for state in states]


@with_math_verify
def test_the_last_box_after_the_thoughts_is_compared_as_mathematics() -> None:
    texts = ["\\boxed{\\frac{1}{2}}", "\\boxed{2} and \\boxed{0.5}", "<think>\\boxed{0.5}</think>\\boxed{3}", "0.5", ""]

    assert score(vf.MathRubric(), "1/2", *texts) == [1.0, 1.0, 0.0, 0.0, 0.0]


@with_math_verify
def test_an_answer_that_cannot_be_compared_in_time_is_wrong_and_holds_nobody_up() -> None:
    began = time.monotonic()

    rewards = score(vf.MathRubric(timeout_seconds=1), "4", "\\boxed{9^{9^{9^{9}}}}", "\\boxed{4}")

    assert rewards == [0.0, 1.0]
    assert time.monotonic() - began < 5


@with_math_verify
def test_the_first_comparison_costs_no_more_than_the_next() -> None:
    """In a process of its own, which has compared nothing yet."""
    program = """
import time
from envsdk import verifiers as vf
from envsdk.verifiers.math import same_answer
vf.MathRubric()
began = time.process_time()
assert same_answer("4/8", "\\\\frac{1}{2}", 5)
print(time.process_time() - began)
"""

    took_s = float(subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout)

    assert took_s < 0.03  # 0.08 or more without a first one before it


@with_math_verify
def test_an_answer_that_is_too_long_is_not_compared() -> None:
    assert score(vf.MathRubric(max_verify_chars=10), "4", "\\boxed{4" + " " * 20 + "}") == [0.0]


def test_without_math_verify_the_rubric_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vf_math, "find_spec", lambda name: None)

    with pytest.raises(ModuleNotFoundError, match="environment] pip") as raised:
        vf.MathRubric()
    assert raised.value.name == "math_verify"


def pid(_: int) -> int:
    return os.getpid()


def sleep(seconds: float) -> str:
    time.sleep(seconds)
    return "slept"


def leave(code: int) -> None:
    os._exit(code)


def open_files(_: int) -> list[str]:
    return [os.readlink(f"/proc/self/fd/{fd}") for fd in (0, 1, 2)]


def test_a_worker_is_one_process_until_it_takes_too_long() -> None:
    worker = Worker()
    try:
        first, second = worker.ask(pid, (0,), 5), worker.ask(pid, (0,), 5)
        late = worker.ask(sleep, (5.0,), 0.1)
        third = worker.ask(pid, (0,), 5)
    finally:
        worker.stop()

    assert first == second != os.getpid()
    assert late is None
    assert third not in (first, os.getpid())
    assert not Path(f"/proc/{first}").exists()


def test_a_worker_that_dies_of_a_question_is_an_error_and_the_next_one_lives() -> None:
    worker = Worker()
    try:
        with pytest.raises(RewardError, match="brought its process down"):
            worker.ask(leave, (3,), 5)
        assert worker.ask(sleep, (0.0,), 5) == "slept"
    finally:
        worker.stop()


def test_a_worker_holds_none_of_its_parents_files() -> None:
    worker = Worker()
    try:
        assert worker.ask(open_files, (0,), 5) == ["/dev/null"] * 3
    finally:
        worker.stop()
