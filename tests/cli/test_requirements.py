"""The commands on environments that ask for packages, and which config says so."""

import json
from pathlib import Path
from typing import Any

import pytest

from cli.__main__ import main
from tests.wheels import wheel

Capture = pytest.CaptureFixture[str]

POLITE = """
from envsdk import EnvironmentSingleTurn
from greeting import VERSION

class Polite(EnvironmentSingleTurn):
    dataset = [{"input": "a", "output": "a"}, {"input": "b", "output": "b"}]
    def __init__(self, worth):
        self.worth = worth
    def build_prompt_messages(self, example, prompt_text):
        return [{"role": "user", "content": example.input}]
    def score_response(self, example, text):
        return self.worth * float(VERSION) if text == example.output else 0.0

def load_environment(worth=1.0):
    return Polite(worth)
"""
CONFIG = """
model = "tiny"
algorithm = "grpo"
[environment]
id = "{id}"
pip = ["greeting=={version}"]
params = {{worth = 0.5}}
"""


@pytest.fixture
def polite(project: Path, index: Path) -> Path:
    """A project that needs a package, which the index has in two versions."""
    wheel(index, "greeting", "1.0")
    wheel(index, "greeting", "2.0")
    (project / "environment.py").write_text(POLITE)
    (project / "configs").mkdir()
    (project / "configs/sft.toml").write_text(CONFIG.format(id="", version="1.0"))
    return project


def scored(capsys: Capture, *words: str, code: int = 0) -> tuple[dict[str, Any], str]:
    """The rollout, and what was said on stderr."""
    assert main(["env", "score", ".", "--input", "a", "--output", "a", "--text", "a", *words, "--json"]) == code
    said = capsys.readouterr()
    return json.loads(said.out)["rollouts"][0], said.err


def test_a_scorer_has_the_packages_of_the_projects_config_and_they_are_installed_once(
    polite: Path, capsys: Capture
) -> None:
    first, told = scored(capsys)
    again, silent = scored(capsys)

    assert first["reward"] == again["reward"] == 0.5
    assert "installing 1 requirement of environment.pip ..." in told
    assert "installing" not in silent


def test_a_config_that_is_named_has_packages_of_its_own(polite: Path, capsys: Capture) -> None:
    (polite / "newer.toml").write_text(CONFIG.format(id="", version="2.0"))

    assert scored(capsys, "--config", "newer.toml")[0]["reward"] == 1.0
    assert scored(capsys, "--config", "newer.toml", "--param", "worth=0.25")[0]["reward"] == 0.5


def test_rl_goes_before_sft(polite: Path, capsys: Capture) -> None:
    (polite / "configs/rl.toml").write_text(CONFIG.format(id="", version="2.0"))

    assert scored(capsys)[0]["reward"] == 1.0


def test_what_cannot_be_installed_shows_the_installers_last_lines(polite: Path, capsys: Capture) -> None:
    (polite / "configs/sft.toml").write_text(CONFIG.format(id="", version="9.0"))

    found, told = scored(capsys, code=1)

    assert found["fault"]["kind"] == "load-failed"
    assert "error: environment.pip [greeting==9.0] cannot be installed" in told
    assert "greeting==9.0" in told.split("cannot be installed")[1], "the installer's own words"


def test_what_is_no_requirement_is_refused_before_anything_is_loaded(polite: Path, capsys: Capture) -> None:
    (polite / "configs/sft.toml").write_text(CONFIG.format(id="", version="1.0 --pre"))

    assert main(["env", "score", ".", "--input", "a", "--text", "a"]) == 1

    assert "environment.pip names 'greeting==1.0 --pre', but wanted is a name" in capsys.readouterr().err


def test_env_test_has_them_too_and_without_them_says_where_to_name_them(polite: Path, capsys: Capture) -> None:
    assert main(["env", "test", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["passed"]
    (polite / "configs/sft.toml").unlink()

    assert main(["env", "test", "--json"]) == 1

    [found] = json.loads(capsys.readouterr().out)["findings"]
    assert found["message"] == (
        "the environment imports greeting, which is not installed here: name its package in `[environment] pip` of "
        "the config"
    )


def test_a_push_is_checked_with_the_params_and_packages_of_the_projects_config(
    polite: Path, fake_stack: Any, capsys: Capture
) -> None:
    assert main(["env", "push", "--name", "polite"]) == 0
    assert main(["env", "push", "--name", "other", "--config", "configs/sft.toml", "--param", "worth=2"]) == 0

    checked = [(check.params, check.pip) for check in fake_stack.checks]
    assert checked == [({"worth": 0.5}, ["greeting==1.0"]), ({"worth": 2}, ["greeting==1.0"])]


def test_a_package_is_published_whatever_is_wrong_with_a_config_beside_it(
    polite: Path, fake_stack: Any, capsys: Capture
) -> None:
    (polite / "configs/sft.toml").write_text("modle = 3\n")

    assert main(["env", "push", "--name", "polite"]) == 0
    assert "note: checked without the config beside it, which cannot be used: model is missing" in (
        capsys.readouterr().err
    )
    assert main(["env", "push", "--name", "polite", "--config", "configs/sft.toml"]) == 1


@pytest.mark.parametrize(
    ("id", "packages", "params"),
    [("", ["greeting==1.0"], {"worth": 0.5}), ("local/polite", ["greeting==1.0"], {"worth": 0.5}), ("local/x", [], {})],
)
def test_an_evaluation_on_the_stack_takes_the_config_of_its_own_environment(
    polite: Path, fake_stack: Any, scripts: Any, id: str, packages: list[str], params: dict[str, Any]
) -> None:
    main(["env", "push", "--name", "polite"])
    (polite / "configs/sft.toml").write_text(CONFIG.format(id=id, version="1.0"))
    fake_stack.script = scripts["evaluates"]

    assert main(["env", "eval", "polite", "-m", "tiny"]) == 0

    environment = fake_stack.specs[-1].environment
    assert (environment.pip, environment.params) == (packages, params)


def test_an_evaluation_on_the_stack_takes_params(polite: Path, fake_stack: Any, scripts: Any) -> None:
    main(["env", "push", "--name", "polite"])
    fake_stack.script = scripts["evaluates"]

    assert main(["env", "eval", "polite", "-m", "tiny", "--param", "worth=3", "--param", "split=dev"]) == 0

    spec = fake_stack.specs[-1]
    assert (spec.environment.params, spec.split) == ({"worth": 3, "split": "dev"}, "dev")


def test_train_tells_what_will_be_installed(polite: Path, fake_stack: Any, scripts: Any, capsys: Capture) -> None:
    main(["env", "push", "--name", "polite", "-y"])
    fake_stack.script = scripts["learns"]

    assert main(["train", "configs/sft.toml"]) == 0

    assert "pip         greeting==1.0" in capsys.readouterr().err.splitlines()
    assert fake_stack.specs[-1].environment.pip == ["greeting==1.0"]
