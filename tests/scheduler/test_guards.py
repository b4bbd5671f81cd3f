"""What calls for a person, or for an end."""

from typing import Any

import msgspec

from flash.contracts.runs import RunFailed, RunWarned
from flash.contracts.spec import PlatformSpec
from flash.contracts.steps import StepFinished
from flash.contracts.values import PolicyRef
from services.scheduler.following import follows
from services.scheduler.guards import Flatness, hopeless, overdue
from services.scheduler.runs import Run
from services.scheduler.runs import after as fold
from tests.scheduler.said import flat, spec

PLATFORM = PlatformSpec(warn_flat_steps=3, stop_flat_steps=5, stop_flat_rollouts=40)


def after(*steps: StepFinished) -> Flatness:
    found = Flatness()
    for step in steps:
        found = found.after(step)
    return found


def step(reward: float | None, flat: float = 1.0, rollouts: int = 8) -> StepFinished:
    metrics: dict[str, Any] = {"frac_zero_std": flat} | ({} if reward is None else {"reward": reward})
    return StepFinished(
        org="local", run_id="r1", attempt=1, step=1, policy=PolicyRef(), metrics=metrics, rollouts=rollouts
    )


def kind(flatness: Flatness) -> str:
    warning = flatness.warning(PLATFORM)
    return warning[0] if warning else ""


def test_rewards_that_are_all_zero_are_warned_of_early_and_end_the_run_in_the_end() -> None:
    zero = [step(0.0)] * 5

    assert [kind(after(*zero[:n])) for n in (2, 3)] == ["", "all-zero"]
    assert hopeless(after(*zero[:4]), PLATFORM) == ""
    assert hopeless(after(*zero), PLATFORM).startswith("every reward of the last 5 steps, 40 rollouts, was 0")


def test_few_rollouts_end_no_run_however_many_steps_they_were() -> None:
    assert hopeless(after(*[step(0.0, rollouts=2)] * 19), PLATFORM) == ""


def test_rewards_that_are_alike_within_groups_are_warned_of_and_end_a_run_that_never_had_others() -> None:
    alike = [step(0.5)] * 5

    assert kind(after(*alike[:3])) == "no-variance"
    assert "alike within every group" in hopeless(after(*alike), PLATFORM)
    solved = after(step(0.5, flat=0.5), *[step(1.0)] * 9)
    assert kind(solved) == "no-variance"
    assert "may be solved" in solved.warning(PLATFORM)[1]  # type: ignore[index]
    assert hopeless(solved, PLATFORM) == ""


def test_one_step_with_something_to_learn_begins_the_count_anew() -> None:
    assert after(*[step(0.0)] * 4, step(0.1, flat=0.9)) == Flatness(has_learned=True)


def test_a_step_without_a_single_reward_says_nothing_about_rewards() -> None:
    assert after(step(0.0), step(None), step(0.0)) == after(step(0.0), step(0.0))


def test_a_warning_is_told_once_an_attempt_and_the_end_when_it_comes() -> None:
    run = Run(spec=msgspec.structs.replace(spec(), platform=PLATFORM), submitted_at=0.0)
    for number in range(1, 4):
        run = fold(flat(number, rollouts=20), run)
    [warned] = [event for event in follows(run) if isinstance(event, RunWarned)]
    run = fold(warned, run)
    assert not [event for event in follows(fold(flat(4), run)) if isinstance(event, RunWarned)]
    for number in range(4, 6):
        run = fold(flat(number, rollouts=20), run)
    [word] = follows(run)
    assert isinstance(word, RunFailed)


def test_an_attempt_may_take_so_long_and_no_longer() -> None:
    day = PlatformSpec(wall_clock_s=86_400.0)

    assert overdue(None, 1e9, day) == ""
    assert overdue(0.0, 86_400.0, day) == ""
    assert overdue(0.0, 86_401.0, day).startswith("it has run for longer than 24 h")
