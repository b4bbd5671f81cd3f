"""Commands on environments that declare secrets: where the values come from, and where they are not seen."""

import json
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import structlog

from cli.__main__ import main
from cli.session import quiet
from flash.bus.memory import MemoryBus
from flash.contracts.hosting import ScorerKey, SealingKey
from flash.contracts.requests import RecorderKey
from flash.redaction import guard
from flash.secrets import KeyPair, of_archive, of_run

CANARY = "sk-4711-canary"
JUDGED = """
import os
from envsdk import EnvironmentSingleTurn

class Judged(EnvironmentSingleTurn):
    dataset = [{"input": word, "output": word} for word in ("one", "two", "three")]
    def build_prompt_messages(self, example, prompt_text):
        return [{"role": "user", "content": "Say " + example.input}]
    def score_response(self, example, text):
        key = os.environ["JUDGE_KEY"]
        print("asking with", key)
        if text == "raise":
            raise ValueError("refused: " + key)
        return float(text == example.output)

def load_environment():
    return Judged()
"""
CONFIG = """
model = "tiny"
algorithm = "{algorithm}"
[environment]
id = "local/judged"
secrets = ["JUDGE_KEY"]
"""


@pytest.fixture
def judged(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    (project / "environment.py").write_text(JUDGED)
    (project / "configs").mkdir()
    for name, algorithm in {"rl": "grpo", "sft": "sft"}.items():
        (project / f"configs/{name}.toml").write_text(CONFIG.format(algorithm=algorithm))
    return project


@pytest.fixture
def pool(fake_stack: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> KeyPair:
    """The scorers' keys, and the recorders', which the stack tells when it is asked."""
    pair = KeyPair.kept(tmp_path / "keys/scorer")
    connect: Callable[..., Any] = fake_stack.connect

    async def with_key(*args: Any, **named: Any) -> MemoryBus:
        bus: MemoryBus = await connect(*args, **named)

        async def tell(request: ScorerKey | RecorderKey) -> SealingKey:
            return SealingKey(public=pair.public)

        await bus.answer("scorer", {ScorerKey: tell})
        await bus.answer("recorder", {RecorderKey: tell})
        return bus

    monkeypatch.setattr("cli.session.connect", with_key)
    return pair


def test_a_scorer_reads_its_secret_and_nothing_tells_it(judged: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (judged / ".env").write_text(f"JUDGE_KEY={CANARY}\n")

    row = ["--input", "one", "--output", "one"]
    assert main(["env", "score", ".", *row, "--text", "one", "--text", "raise", "--json"]) == 0

    out, err = capfd.readouterr()
    right, raised = json.loads(out)["rollouts"]
    assert right["reward"] == 1.0
    assert right["output"] == f"asking with {'*' * 14}\n"
    assert raised["fault"]["message"] == f"ValueError: refused: {'*' * 14}"
    assert "canary" not in out + err


@pytest.mark.parametrize(
    "words",
    [
        ["env", "score", ".", "--input", "one", "--text", "one"],
        ["env", "eval", ".", "--url", "http://127.0.0.1:9/v1"],
        ["env", "eval", "judged", "-m", "tiny"],
        ["train", "configs/rl.toml"],
    ],
    ids=" ".join,
)
def test_what_is_set_nowhere_is_asked_for_before_anything_is_done(
    judged: Path, pool: KeyPair, fake_stack: Any, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    assert main(words) == 1

    assert "error: missing declared environment secret(s): JUDGE_KEY: set them in your shell" in capsys.readouterr().err
    assert fake_stack.specs == []


def test_a_dry_run_needs_no_secret(judged: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "configs/rl.toml", "--dry-run"]) == 0

    assert json.loads(capsys.readouterr().out)["spec"]["environment"]["secrets"] == ["JUDGE_KEY"]


def test_env_test_uses_the_secrets_and_says_which_are_missing(
    judged: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["env", "test", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)["findings"]
    sentences = [finding["message"] for finding in found if finding["check"] == "secrets"]
    assert sentences[0].startswith("missing declared environment secret(s): JUDGE_KEY: set them in your shell")
    assert sentences[1].startswith("the scorer reads the variable JUDGE_KEY, which is not set for it")

    monkeypatch.setenv("JUDGE_KEY", CANARY)
    assert main(["env", "test"]) == 0
    out, err = capsys.readouterr()
    assert "PASS  secrets  JUDGE_KEY from the shell" in out + err
    assert "canary" not in out + err


def test_a_push_is_checked_with_what_is_set_and_says_what_is_not(
    judged: Path, pool: KeyPair, fake_stack: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["env", "push", "--name", "judged"]) == 0
    assert "note: checked without JUDGE_KEY, which the config declares: not set here" in capsys.readouterr().err
    assert fake_stack.checks[-1].sealed == b""

    monkeypatch.setenv("JUDGE_KEY", CANARY)
    (judged / "notes.md").write_text("another version")
    assert main(["env", "push", "--name", "judged"]) == 0
    check = fake_stack.checks[-1]
    assert pool.open(check.sealed, of_archive(check.digest)) == {"JUDGE_KEY": CANARY}
    assert "note: checked without" not in capsys.readouterr().err


def test_a_run_is_given_its_secrets_sealed_for_it_alone(
    judged: Path, pool: KeyPair, fake_stack: Any, scripts: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    (judged / ".env").write_text(f"JUDGE_KEY={CANARY}\nOTHER=unwanted\n")
    fake_stack.script = scripts["learns"]
    assert main(["env", "push", "--name", "judged"]) == 0

    assert main(["train", "configs/rl.toml", "--json"]) == 0

    [spec], [sealed] = fake_stack.specs, fake_stack.sealed
    assert spec.environment.secrets == ["JUDGE_KEY"]
    assert sealed.keys() == {"scorer"}
    assert pool.open(sealed["scorer"], of_run("local", spec.run_id)) == {"JUDGE_KEY": CANARY}
    told = "".join(capfd.readouterr())
    assert "secrets     JUDGE_KEY\n" in told
    assert "canary" not in told


@pytest.mark.parametrize("key", [CANARY, ""])
def test_the_key_of_wandb_goes_to_the_recorders(
    judged: Path, pool: KeyPair, fake_stack: Any, capfd: pytest.CaptureFixture[str], key: str
) -> None:
    (judged / ".env").write_text(f"JUDGE_KEY=for-the-judge\nWANDB_API_KEY={key}\n")
    with (judged / "configs/rl.toml").open("a") as config:
        config.write('[wandb]\nrun_name = "third try"\n')
    assert main(["env", "push", "--name", "judged"]) == 0

    assert main(["train", "configs/rl.toml", "--background"]) == 0

    [spec], [sealed] = fake_stack.specs, fake_stack.sealed
    assert (spec.wandb.project, spec.wandb.run_name) == ("flash", "third try")
    told = "".join(capfd.readouterr())
    if key:
        assert pool.open(sealed["recorder"], of_run("local", spec.run_id)) == {"WANDB_API_KEY": CANARY}
        assert "canary" not in told
        assert "wandb       project flash\n" in told
    else:
        assert sealed.keys() == {"scorer"}
        assert "WANDB_API_KEY is set neither in your shell nor in .env" in told


def test_what_is_logged_for_whoever_debugs_has_no_values_of_variables(capsys: pytest.CaptureFixture[str]) -> None:
    secret = f"{CANARY}-debugged"
    guard([secret])

    quiet(Namespace(debug=True))
    try:
        raise ValueError(f"refused: {secret}")
    except ValueError:
        structlog.get_logger().exception("request.failed", key=secret)
    finally:
        structlog.reset_defaults()

    told = capsys.readouterr().err
    assert "request.failed" in told
    assert "refused: ****" in told
    assert CANARY not in told


def test_an_evaluation_is_a_run_with_secrets_too(
    judged: Path, pool: KeyPair, fake_stack: Any, scripts: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUDGE_KEY", "abc")
    fake_stack.script = scripts["evaluates"]
    assert main(["env", "push", "--name", "judged"]) == 0

    assert main(["env", "eval", "judged", "-m", "tiny", "-r", "3"]) == 0

    [spec], [sealed] = fake_stack.specs, fake_stack.sealed
    assert pool.open(sealed["scorer"], of_run("local", spec.run_id)) == {"JUDGE_KEY": "abc"}
