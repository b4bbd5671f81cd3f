"""`flash train --cost`: reckoned on this machine, with a stack and without."""

import json
from pathlib import Path
from typing import Any

import pytest

from cli.__main__ import main
from cli.costing import arithmetic, tokens_per_step
from cli.speeds import last_measured, remember
from flash.client.speed import Speed, tokens_per_s
from flash.contracts.plan import Plan
from flash.contracts.requests import RecordedEvent
from flash.contracts.spec import EnvironmentSpec, RunSpec, SamplingSpec
from flash.models.lengths import Lengths

Capture = pytest.CaptureFixture[str]
RL = ["train", "configs/rl.toml", "--cost"]
LENGTHS = Lengths(rows=10, p50=20, p95=30, longest=30, mean=25.0, limit=100, cut=0, dropped=0)
SFT = RunSpec(
    org="local", run_id="r1", algorithm="sft", model="tiny", pool="tiny", seed=1, split="train",
    environment=EnvironmentSpec(id="local/e", version="v", digest="d", key="k"),
)  # fmt: skip
GRPO = RunSpec(
    **{name: getattr(SFT, name) for name in ("org", "run_id", "model", "pool", "seed", "split", "environment")},
    algorithm="grpo", sampling=SamplingSpec(group_size=8, temperature=1.0, max_tokens=24),
)  # fmt: skip


@pytest.fixture
def laid(project: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> Path:
    """The project of a template whose environment is not published."""
    monkeypatch.delenv("FLASH_PRICE_PER_HOUR", raising=False)
    assert main(["env", "setup", "--template", "sort", "-y"]) == 0
    capsys.readouterr()
    return project


def found(capsys: Capture) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(capsys.readouterr().out)
    return data


def test_without_a_stack_rows_and_tokens_are_counted_and_the_rest_is_arithmetic(laid: Path, capsys: Capture) -> None:
    assert main([*RL, "--price-per-hour", "3.6"]) == 0

    told = found(capsys)
    assert (told["rows"], told["steps"], told["tokens"]["counted"]) == (512, 40, "counted")
    assert told["tokens_per_step"] == round(8 * (told["tokens"]["mean"] + 8 * 24))
    assert told["speed"].startswith("an estimate: 8 × 1,018,624 parameters a token on")
    assert told["time_s"] == pytest.approx(40 * told["tokens_per_step"] / told["tokens_per_s"], abs=0.1)
    assert told["total"] == pytest.approx(told["time_s"] / 1000, abs=1e-4)
    assert told["differs_from_published"] is None


def test_the_environment_is_loaded_with_the_variables_of_the_config(laid: Path, capsys: Capture) -> None:
    environment = laid / "environment.py"
    environment.write_text('import os\n\nassert os.environ["FEATURE_FLAG"] == "on"\n' + environment.read_text())

    assert main([*RL, "--set", "worker_env.FEATURE_FLAG=on"]) == 0

    assert found(capsys)["rows"] == 512


def test_what_was_measured_last_is_what_is_reckoned_with(laid: Path, tmp_path: Path, capsys: Capture) -> None:
    remember(tmp_path / "home", "tiny", "grpo", Speed(1768.0, "flash-1-00000000"))
    remember(tmp_path / "home", "tiny", "sft", Speed(1.0, "flash-2-00000000"))

    assert main(RL) == 0

    told = found(capsys)
    assert (told["tokens_per_s"], told["speed"]) == (1768.0, "as it was last measured here, run flash-1-00000000")
    assert (told["time_s"], told["total"]) == (40.0, None)


def test_a_stack_says_how_fast_its_own_runs_were_and_whether_the_folder_is_what_is_published(
    laid: Path, fake_stack: Any, capsys: Capture
) -> None:
    def timed(spec: RunSpec) -> list[tuple[str, dict[str, Any]]]:
        step = {"rollouts": 8, "faults": 0, "fault_samples": []}
        start, *steps = [("step.finished", {"step": n, "metrics": {"forward_tokens": 500.0}, **step}) for n in range(3)]
        return [start, *steps, ("run.completed", {"metrics": {}})]

    fake_stack.script = timed
    fake_stack.steps_taken = 2
    assert main(["env", "push", "--name", "sort", "-y"]) == 0
    assert main(["train", "configs/rl.toml"]) == 0
    run_id = fake_stack.specs[-1].run_id
    capsys.readouterr()

    assert main(RL) == 0
    same = found(capsys)
    (laid / "environment.py").write_text((laid / "environment.py").read_text() + "\n# changed\n")
    assert main(RL) == 0
    other = found(capsys)

    assert (same["tokens_per_s"], same["speed"]) == (500.0, f"measured on this stack, run {run_id}")
    assert (same["differs_from_published"], other["differs_from_published"]) == (False, True)


def test_a_run_that_was_followed_is_remembered(laid: Path, fake_stack: Any, tmp_path: Path, capsys: Capture) -> None:
    step = {"rollouts": 8, "faults": 0, "fault_samples": [], "metrics": {"forward_tokens": 300.0}}
    fake_stack.script = lambda spec: [
        *(("step.finished", {"step": number, **step}) for number in range(2)),
        ("run.completed", {"metrics": {}}),
    ]  # fmt: skip
    main(["env", "push", "--name", "sort", "-y"])

    assert main(["train", "configs/rl.toml"]) == 0

    assert last_measured(tmp_path / "home", "tiny", "grpo") == Speed(300.0, fake_stack.specs[-1].run_id)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--env", "nowhere"], "nowhere is not there: name it with --env PATH"),
        (["--price-per-hour", "cheap"], "--price-per-hour is cheap, but a number that is 0 or more is wanted"),
        (["--set", "environment.params.split=test"], "test"),
    ],
)
def test_what_cannot_be_reckoned_is_said_in_a_sentence(
    words: list[str], sentence: str, laid: Path, capsys: Capture
) -> None:
    assert main([*RL, *words]) == 1

    err = capsys.readouterr().err
    assert sentence in err
    assert "Traceback" not in err.split("environment.py")[0]


def test_a_model_that_is_not_here_has_its_tokens_guessed(laid: Path, capsys: Capture) -> None:
    assert main([*RL, "--set", "model=smollm2-135m"]) == 0

    assert found(capsys)["tokens"]["counted"] == "guessed at 4 characters each: smollm2-135m is not here"


def test_a_step_takes_what_its_sequences_take() -> None:
    assert tokens_per_step(SFT, Plan(10, 4, 3), LENGTHS) == 4 * 25.0
    assert tokens_per_step(GRPO, Plan(10, 4, 3), LENGTHS) == 4 * (25.0 + 8 * 24)


def test_arithmetic_is_six_operations_a_token_to_learn_and_two_to_sample() -> None:
    assert arithmetic(SFT, 1_000_000, 2).tokens_per_s == pytest.approx(2 * 25e9 / 6e6)
    assert arithmetic(GRPO, 1_000_000, 2).tokens_per_s == pytest.approx(2 * 25e9 / 8e6)


def test_the_speed_of_a_run_is_its_tokens_over_the_time_between_its_first_and_last_step() -> None:
    def finished(step: int, at: float, tokens: float) -> RecordedEvent:
        body = {"step": step, "metrics": {"forward_tokens": tokens}}
        return RecordedEvent(sequence=step, time=at, subject="", caused_by="", event="step.finished.v1", body=body)

    steps = [finished(0, 10.0, 0.0), finished(1, 11.0, 100.0), finished(2, 14.0, 300.0)]

    assert tokens_per_s(steps) == 100.0
    assert tokens_per_s(steps[:1]) is None
    assert tokens_per_s([]) is None
