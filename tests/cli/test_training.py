"""`flash train` against a stack that answers what the test wants."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cli.__main__ import main
from flash.contracts.preparing import PreparedRows
from flash.contracts.requests import RunState, RunSubmit
from flash.contracts.values import Fault
from flash.errors import Unanswered

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def pushed(project: Path, fake_stack: Any, scripts: Any, capsys: Capture) -> Path:
    """A project whose environment is published, with its id in the configs, and a run that ends well."""
    assert main(["env", "setup", "--template", "sort", "-y"]) == 0
    assert main(["env", "push", "--name", "sort", "-y"]) == 0
    fake_stack.script = scripts["learns"]
    capsys.readouterr()
    return project


def fields(lines: list[str]) -> dict[str, str]:
    """`name        value` lines, those that go on with theirs."""
    found: dict[str, str] = {}
    for line in lines:
        name, value = line[:12].strip(), line[12:]
        if not name and found:
            found[next(reversed(found))] += f" {value}"
        else:
            found[name] = value
    return found


def test_what_will_run_is_shown_before_it_is_submitted(pushed: Path, fake_stack: Any, capsys: Capture) -> None:
    given = ("train.steps=3", "train.kl_penalty_coef=0.01", "train.learning_rate=0.0005", "worker_env.LEVEL=2")
    knobs = [word for one in given for word in ("--set", one)]

    assert main(["train", "configs/rl.toml", *knobs]) == 0

    spec, lines = fake_stack.specs[-1], capsys.readouterr().err.splitlines()
    environment = spec.environment
    shown = fields(lines)
    assert shown["run"] == spec.run_id
    assert shown["environment"] == f"local/sort@{environment.version}, digest {environment.digest[:12]}"
    assert shown["rows"].startswith("train, 3, hash ")
    assert shown["tokens"] == (
        "of a prompt p50 20, p95 1,000, longest 1,000 of at most 232; 1 is left with less than max_tokens"
    )
    assert shown["steps"] == "3"
    assert shown["worker_env"] == "LEVEL=2"
    assert shown["each step"] == "3 prompts (all rows; batch_size is 8) × 8 rollouts of at most 24 tokens"
    assert shown["adapter"] == "rank 16, alpha 32, learning rate 0.0005"
    changed = ("train.learning_rate 0.0005 (0.001)", "train.steps 3 (40)", "train.kl_penalty_coef 0.01 (0)")
    assert all(told in shown["not default"] for told in changed)
    assert "train.group_size" not in shown["not default"]
    assert max(map(len, lines[: lines.index(f"{spec.run_id}: queued")])) <= 80


def test_sft_shows_epochs_and_what_is_cut(pushed: Path, fake_stack: Any, capsys: Capture) -> None:
    assert main(["train", "configs/sft.toml", "--set", "train.epochs=2", "--set", "train.max_examples=2"]) == 0

    err = capsys.readouterr().err
    assert "rows        train, 3, the first 2 are used, hash" in err
    assert "longest 1,000 of at most 256; 1 is cut" in err
    assert "steps       2, 2 epochs of 2 rows" in err


def test_thinking_that_the_outputs_do_not_show_is_told(pushed: Path, fake_stack: Any, capsys: Capture) -> None:
    fake_stack.prepared = PreparedRows(rows=3, digest="a1", thoughtless=[1, 2])

    assert main(["train", "configs/sft.toml", "--set", "thinking=true"]) == 0

    told = " ".join(capsys.readouterr().err.split())
    assert "thoughts 2 outputs have no <think> and </think>, the first in row 1: SFT teaches not to think there" in told


@pytest.mark.parametrize(
    ("prepared", "sentence"),
    [
        (PreparedRows(fault=Fault(kind="load-failed", message="train.jsonl, line 17: x")), "train.jsonl, line 17: x"),
        (PreparedRows(rows=0), "the train split of local/sort has no rows"),
        (PreparedRows(rows=3, missing_output=[1]), "SFT trains on gold output, but rows 1 have none"),
    ],
)
def test_what_cannot_be_trained_on_is_refused_before_anything_is_queued(
    prepared: PreparedRows, sentence: str, pushed: Path, fake_stack: Any, capsys: Capture
) -> None:
    fake_stack.prepared = prepared

    assert main(["train", "configs/sft.toml"]) == 1

    assert sentence in capsys.readouterr().err
    assert fake_stack.specs == []


def test_a_submit_whose_reply_is_lost_is_asked_again_under_the_same_id_and_is_one_run(
    pushed: Path, fake_stack: Any, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    told, asked = fake_stack._on_submit, list[RunSubmit]()

    async def once_lost(request: RunSubmit) -> RunState:
        asked.append(request)
        state: RunState = await told(request) if len(asked) == 1 else fake_stack._state(request.spec)
        if len(asked) == 1:
            raise Unanswered("the connection was lost")
        return state

    monkeypatch.setattr(fake_stack, "_on_submit", once_lost)

    assert main(["train", "configs/rl.toml"]) == 0

    assert len({request.spec.run_id for request in asked}) == 1
    assert (len(asked), json.loads(capsys.readouterr().out)["state"]) == (2, "done")


def test_who_leaves_hears_how_to_follow_again_and_how_to_cancel(
    pushed: Path, fake_stack: Any, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    import asyncio

    async def left(*args: object, **more: object) -> None:
        raise asyncio.CancelledError

    monkeypatch.setattr("cli.training.watch", left)

    with pytest.raises(asyncio.CancelledError):
        main(["train", "configs/rl.toml"])

    run_id, err = fake_stack.specs[-1].run_id, capsys.readouterr().err
    assert f"flash status {run_id} -f" in err
    assert f"flash cancel {run_id}" in err


def test_the_background_leaves_the_id_on_stdout_and_the_next_step_on_stderr(
    pushed: Path, fake_stack: Any, capsys: Capture
) -> None:
    assert main(["train", "configs/rl.toml", "--background", "--json"]) == 0

    said = capsys.readouterr()
    run_id = fake_stack.specs[-1].run_id
    assert json.loads(said.out) == msgspec.to_builtins(fake_stack._state(fake_stack.specs[-1]))
    assert f"flash status {run_id} -f" in said.err
