"""Each example, typed in as its README says: SFT, then GRPO from that adapter, then the held-out rows."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest


@dataclass(frozen=True)
class Lesson:
    """What an example's README promises, less what another seed or machine may cost."""

    example: str
    rows: int
    """Held-out ones of the evaluation."""
    rollouts: int
    """Of each."""
    max_tokens: int
    starts: float
    """Success after SFT, at most: more would leave little to reinforce."""
    reaches: float
    """Success after GRPO, at least."""
    model: str = "tiny"


LESSONS = [
    Lesson("arithmetic", rows=64, rollouts=4, max_tokens=8, starts=0.75, reaches=0.73),
    Lesson("guess", rows=24, rollouts=8, max_tokens=8, starts=0.81, reaches=0.77),
    Lesson("gym", rows=64, rollouts=4, max_tokens=16, starts=0.75, reaches=0.80),
    Lesson("reversal", rows=48, rollouts=4, max_tokens=32, starts=0.08, reaches=0.09, model="smollm2-135m"),
    Lesson("math", rows=48, rollouts=4, max_tokens=20, starts=0.25, reaches=0.50, model="smollm2-135m"),
]
DAY = int(os.environ.get("FLASH_CHAOS_SEED", "0"))
OF_THE_DAY = LESSONS[DAY % 2]
"""CI turns the wheel with every commit, among those that take a minute."""


def learns(lesson: Lesson, published: Callable[..., Any]) -> None:
    project = published(lesson.example, model=lesson.model)
    figures = {"-n": lesson.rows, "-r": lesson.rollouts, "--temperature": 1.0, "--max-tokens": lesson.max_tokens}
    sampled = [word for option, value in figures.items() for word in (option, str(value))]

    sft = project.train("configs/sft.toml")
    grpo = project.train("configs/rl.toml", "--set", f"train.init_from_adapter={sft}")
    before, after = (project.evaluated(run, *sampled) for run in (sft, grpo))

    assert before["faults"] == after["faults"] == 0
    assert before["success"] <= lesson.starts
    assert after["success"] >= lesson.reaches
    assert after["reward"] > before["reward"]


@pytest.mark.slow
def test_the_example_of_the_day_reaches_its_number(published: Callable[..., Any]) -> None:
    learns(OF_THE_DAY, published)


@pytest.mark.long
@pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson.example)
def test_an_example_reaches_its_number(lesson: Lesson, published: Callable[..., Any]) -> None:
    learns(lesson, published)
