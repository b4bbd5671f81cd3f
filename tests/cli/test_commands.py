"""The commands against a stack that answers what the test wants."""

import json
from pathlib import Path
from typing import Any

import pytest

from cli.__main__ import main
from cli.results import read_rows

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def pushed(project: Path, fake_stack: Any, capsys: Capture) -> Path:
    """A project whose environment is published, with its id in the configs."""
    assert main(["env", "setup", "--template", "sort", "-y"]) == 0
    assert main(["env", "push", "--name", "sort", "-y"]) == 0
    capsys.readouterr()
    return project


def data(capsys: Capture) -> Any:
    return json.loads(capsys.readouterr().out)


def run_of(fake_stack: Any) -> str:
    return str(fake_stack.specs[-1].run_id)


def test_push_prints_the_id_and_the_snippet_and_writes_it_into_the_configs(
    project: Path, fake_stack: Any, capsys: Capture
) -> None:
    main(["env", "setup", "-y"])
    capsys.readouterr()

    assert main(["env", "push", "--name", "first", "-y"]) == 0

    said = capsys.readouterr()
    published, table, id = said.out.splitlines()
    assert published.startswith("published local/first@")
    assert (table, id) == ("[environment]", 'id = "local/first"')
    assert "environment.py" in said.err
    assert 'id = "local/first" # paste' in (project / "configs/rl.toml").read_text()


def test_push_without_yes_leaves_the_configs_alone(project: Path, fake_stack: Any, capsys: Capture) -> None:
    main(["env", "setup", "-y"])

    assert main(["env", "push", "--name", "first"]) == 0

    assert "configs/rl.toml has no environment id yet; -y writes it" in capsys.readouterr().err
    assert 'id = ""' in (project / "configs/rl.toml").read_text()


def test_push_of_a_package_that_does_not_load_shows_the_authors_traceback(
    project: Path, fake_stack: Any, broken: Any, capsys: Capture
) -> None:
    main(["env", "setup", "-y"])
    fake_stack.check = broken

    assert main(["env", "push", "--name", "first"]) == 1

    err = capsys.readouterr().err
    assert "error: first cannot be loaded: NameError: name 'x' is not defined\nenvironment.py, line 3" in err


def test_a_name_that_cannot_be_is_refused_before_anything_is_packed(project: Path, capsys: Capture) -> None:
    assert main(["env", "push", "--name", "My Env"]) == 1

    assert "--name is 'My Env', but lower-case letters" in capsys.readouterr().err


def test_environments_are_listed_as_json_on_a_pipe(pushed: Path, capsys: Capture) -> None:
    assert main(["env", "list"]) == 0

    assert [version["id"] for version in data(capsys)] == ["local/sort"]


def test_a_dry_run_needs_no_stack(project: Path, capsys: Capture) -> None:
    main(["env", "setup", "-y"])
    capsys.readouterr()

    assert main(["train", "configs/rl.toml", "--set", "environment.id=local/x", "--dry-run"]) == 0

    found = data(capsys)
    assert found["state"] == "dry_run"
    assert found["run_id"].startswith("flash-")
    assert (found["spec"]["environment"]["id"], found["spec"]["environment"]["version"]) == ("local/x", None)
    assert (found["spec"]["model"], found["spec"]["train"]["steps"]) == ("smollm2-135m", 20)


def test_a_config_without_an_environment_tells_to_push(project: Path, fake_stack: Any, capsys: Capture) -> None:
    main(["env", "setup", "-y"])

    assert main(["train", "configs/rl.toml"]) == 1

    assert "environment.id is empty: publish the folder with `flash env push --name NAME .`" in capsys.readouterr().err


def test_train_submits_follows_and_ends_with_the_checkpoint(
    pushed: Path, fake_stack: Any, scripts: Any, capsys: Capture
) -> None:
    fake_stack.script = scripts["learns"]

    assert main(["train", "configs/rl.toml", "--set", "seed=3"]) == 0

    said = capsys.readouterr()
    found = json.loads(said.out)
    run_id = run_of(fake_stack)
    assert (found["run_id"], found["state"], found["step"]) == (run_id, "done", 2)
    assert (found["rewards"], found["checkpoint"]) == ([0.25, 0.75], f"{run_id}/step-2")
    assert fake_stack.specs[-1].seed == 3
    assert "step=1 reward=0.25 kl=0\n" in said.err
    assert f"checkpoint {run_id}/step-2" in said.err
    assert "environment local/sort@" in said.err


def test_a_run_that_fails_ends_with_one_its_reason_and_the_traceback(
    pushed: Path, fake_stack: Any, scripts: Any, capsys: Capture
) -> None:
    fake_stack.script = scripts["fails"]

    assert main(["train", "configs/rl.toml"]) == 1

    said = capsys.readouterr()
    assert json.loads(said.out)["reason"] == "too many faults"
    assert "environment.py, line 7" in said.err


def test_a_run_in_the_background_is_submitted_and_left(pushed: Path, fake_stack: Any, capsys: Capture) -> None:
    assert main(["train", "configs/rl.toml", "--background"]) == 0

    assert data(capsys)["run_id"] == run_of(fake_stack)


def test_a_run_may_start_from_the_adapter_of_another(
    pushed: Path, fake_stack: Any, scripts: Any, capsys: Capture
) -> None:
    fake_stack.script = scripts["learns"]
    main(["train", "configs/sft.toml"])
    first = run_of(fake_stack)

    assert main(["train", "configs/rl.toml", "--set", f"train.init_from_adapter={first}"]) == 0

    spec = fake_stack.specs[-1]
    assert spec.reference == f"{first}/step-2"
    assert spec.train.init_from_adapter.digest == "d"
    assert spec.train.lora_rank == fake_stack.specs[0].train.lora_rank


def test_train_says_when_the_folder_differs_from_what_is_published(
    pushed: Path, fake_stack: Any, scripts: Any, capsys: Capture
) -> None:
    fake_stack.script = scripts["learns"]
    main(["train", "configs/sft.toml"])
    before = capsys.readouterr().err
    (pushed / "environment.py").write_text((pushed / "environment.py").read_text() + "\n# changed\n")

    main(["train", "configs/sft.toml"])

    assert "differs from local/sort@" in capsys.readouterr().err
    assert "differs from" not in before, "configs got their id after the push, but are no part of the package"


def test_runs_status_log_and_checkpoints_tell_of_a_run(
    pushed: Path, fake_stack: Any, scripts: Any, capsys: Capture
) -> None:
    fake_stack.script = scripts["learns"]
    main(["train", "configs/rl.toml"])
    run_id = run_of(fake_stack)
    capsys.readouterr()

    assert main(["runs"]) == 0
    assert [run["run_id"] for run in data(capsys)] == [run_id]
    assert main(["status", run_id]) == 0
    assert data(capsys)["state"] == "done"
    assert main(["status", run_id, "-f"]) == 0
    capsys.readouterr()
    assert main(["checkpoints", run_id]) == 0
    assert capsys.readouterr().out == f"step 2  {run_id}/step-2\n"
    assert main(["log", run_id]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(lines) == 8
    assert (lines[4]["event"], lines[4]["body"]["metrics"]["reward"]) == ("step.finished.v1", 0.25)
    assert main(["log", run_id, "-f", "--json"]) == 0
    assert [json.loads(line)["event"] for line in capsys.readouterr().out.splitlines()][-1] == "run.completed.v1"


@pytest.mark.parametrize("command", ["status", "log", "checkpoints"])
def test_a_run_that_is_not_there_is_said_to_be(command: str, project: Path, fake_stack: Any, capsys: Capture) -> None:
    assert main([command, "flash-1-00000000"]) == 1

    assert "error: there is no run flash-1-00000000: `flash runs` lists them" in capsys.readouterr().err


def test_cancel_waits_until_the_run_is_over(pushed: Path, fake_stack: Any, capsys: Capture) -> None:
    main(["train", "configs/rl.toml", "--background"])
    capsys.readouterr()

    assert main(["cancel", run_of(fake_stack)]) == 0

    assert data(capsys) == {"run_id": run_of(fake_stack), "state": "cancelled", "checkpoints": []}


def test_a_run_whose_version_was_withdrawn_since_is_not_resumed(
    pushed: Path, fake_stack: Any, scripts: Any, capsys: Capture
) -> None:
    fake_stack.script = scripts["fails"]
    main(["train", "configs/rl.toml"])
    environment = fake_stack.specs[-1].environment
    main(["env", "delete", f"sort@{environment.version}", "-y"])
    capsys.readouterr()

    assert main(["resume", run_of(fake_stack)]) == 1

    assert f"error: local/sort@{environment.version} was withdrawn" in capsys.readouterr().err
    assert [event.event for event in fake_stack.events].count("run.resumed.v1") == 0


def test_a_run_that_failed_is_resumed_and_followed_to_its_new_end(
    pushed: Path, fake_stack: Any, scripts: Any, capsys: Capture
) -> None:
    fake_stack.script = scripts["fails"]
    main(["train", "configs/rl.toml"])
    run_id = run_of(fake_stack)
    capsys.readouterr()

    assert main(["resume", run_id]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["state"] == "queued"
    assert f"{run_id} is queued again, attempt 2, from its start" in said.err
    assert main(["resume", run_id]) == 1
    assert f"error: run {run_id} is queued: there is nothing to resume" in capsys.readouterr().err

    for name, body in scripts["learns"](None):
        fake_stack.say(run_id, name, **body)
    assert main(["status", run_id, "-f"]) == 0
    assert data(capsys)["state"] == "done"


def test_status_of_a_queued_run_says_what_it_waits_for(pushed: Path, fake_stack: Any, capsys: Capture) -> None:
    main(["train", "configs/rl.toml", "--background"])
    capsys.readouterr()

    assert main(["status", run_of(fake_stack)]) == 0

    assert data(capsys)["waiting_for"] == "its turn: position 2 in the queue of local"


def test_runs_are_listed_by_state_and_no_more_than_asked_for(
    pushed: Path, fake_stack: Any, scripts: Any, capsys: Capture
) -> None:
    for script in ("learns", "fails", "learns"):
        fake_stack.script = scripts[script]
        main(["train", "configs/rl.toml"])
    capsys.readouterr()

    assert main(["runs", "--state", "failed"]) == 0
    assert [run["state"] for run in data(capsys)] == ["failed"]
    assert main(["runs", "-n", "2"]) == 0
    assert [run["state"] for run in data(capsys)] == ["done", "failed"]


def test_an_evaluation_plays_the_held_out_rows_and_tells_the_results(
    pushed: Path, fake_stack: Any, scripts: Any, capsys: Capture
) -> None:
    fake_stack.script = scripts["evaluates"]

    assert main(["env", "eval", "local/sort", "-m", "tiny", "-n", "2", "-r", "3", "--max-tokens", "24"]) == 0

    said = capsys.readouterr()
    found = json.loads(said.out)
    spec = fake_stack.specs[-1]
    assert (spec.algorithm, spec.split, spec.max_examples, spec.sampling.group_size) == ("eval", "eval", 2, 3)
    assert (spec.sampling.max_tokens, spec.sampling.temperature, spec.train) == (24, 1.0, None)
    assert (found["reward"], found["success"], found["examples"], found["reference"]) == (0.725, 0.5, 2, "tiny")
    assert said.err.splitlines()[0] == "Loading environment: local/sort"
    assert "Running 2 examples × 3 rollouts = 6 total rollouts" in said.err
    assert "Progress: 6/6 (100%)" in said.err
    assert "Results:\nReward: 0.72 ± 0.15\nSuccess: 50.0%\npass@1: 66.7%  pass@2: 100.0%  pass@3: 100.0%\n" in said.err
    assert "\nexact: 0.50 ± 0.50\n" in said.err
    rows = list(read_rows(pushed / found["saved"]))
    assert [(row.index, row.rollout, row.reward) for row in rows[2:4]] == [(0, 2, 0.0), (1, 0, 1.0)]


def test_the_rows_of_an_evaluation_that_was_left_are_gathered_later(
    pushed: Path, fake_stack: Any, scripts: Any, capsys: Capture
) -> None:
    fake_stack.script = scripts["evaluates"]
    main(["env", "eval", "sort", "-m", "tiny", "-r", "3"])
    whole = data(capsys)
    path = pushed / whole["saved"]
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:3]))  # the header and two rows

    assert main(["env", "eval", "sort", "--resume", whole["saved"]]) == 0

    again = data(capsys)
    assert (again["run_id"], again["pass_at"], len(fake_stack.specs)) == (whole["run_id"], whole["pass_at"], 1)
    assert len(list(read_rows(path))) == 6


def test_an_evaluation_wants_a_model_or_an_endpoint(project: Path, capsys: Capture) -> None:
    assert main(["env", "eval", "sort"]) == 1

    assert "--model is missing: name a base model, RUN or RUN/step-N, or an endpoint" in capsys.readouterr().err


def test_an_evaluation_of_a_checkpoint_takes_its_adapter(
    pushed: Path, fake_stack: Any, scripts: Any, capsys: Capture
) -> None:
    fake_stack.script = scripts["learns"]
    main(["train", "configs/rl.toml"])
    run_id = run_of(fake_stack)
    fake_stack.script = scripts["evaluates"]

    assert main(["env", "eval", "sort", "-m", f"{run_id}/final", "--split", "train"]) == 0

    spec = fake_stack.specs[-1]
    assert (spec.reference, spec.policy.digest, spec.split) == (f"{run_id}/step-2", "d", "train")


def test_an_evaluation_that_fails_says_why(pushed: Path, fake_stack: Any, scripts: Any, capsys: Capture) -> None:
    fake_stack.script = scripts["fails"]

    assert main(["env", "eval", "sort", "-m", "tiny"]) == 1

    said = capsys.readouterr()
    assert json.loads(said.out)["reason"] == "too many faults"
    assert "environment.py, line 7" in said.err


@pytest.mark.parametrize(("option", "value"), [("-r", "0"), ("-n", "-1"), ("--temperature", "nan")])
def test_an_evaluation_that_cannot_be_is_refused(option: str, value: str, project: Path, capsys: Capture) -> None:
    assert main(["env", "eval", "sort", "-m", "tiny", option, value]) == 1

    assert f"error: {option} is {value.lower()}, but " in capsys.readouterr().err


def test_chat_prints_the_answer_as_it_comes(project: Path, fake_stack: Any, capsys: Capture) -> None:
    assert main(["chat", "tiny", "-m", "What is 2 + 2?", "--system", "Be brief."]) == 0

    assert capsys.readouterr().out == "four\n"
    assert fake_stack.heard[0][:2] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "What is 2 + 2?"},
    ]


def test_a_conversation_goes_on_until_an_empty_line(
    project: Path, fake_stack: Any, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    lines = iter(["Hello", "And you?", ""])
    monkeypatch.setattr("builtins.input", lambda prompt="": next(lines))

    assert main(["chat", "tiny"]) == 0

    assert capsys.readouterr().out == "four\nfour\n"
    assert [message["content"] for message in fake_stack.heard[-1]][:3] == ["Hello", "four", "And you?"]


def test_ps_tells_who_answers_and_who_will(project: Path, fake_stack: Any, capsys: Capture) -> None:
    fake_stack.warming = ("qwen3-0.6b",)

    assert main(["ps"]) == 0

    replicas = data(capsys)["replicas"]
    assert {replica["service"] for replica in replicas} == {
        "hub", "learner", "recorder", "rollout", "scheduler", "scorer",
    }  # fmt: skip
    assert [r["metadata"]["pool"] for r in replicas if not r["ready"]] == ["qwen3-0.6b"]
