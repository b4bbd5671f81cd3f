"""`flash env score` on folders with no stack up, and on what a hub has."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cli.__main__ import main

Capture = pytest.CaptureFixture[str]

COUNTING = """
import os
from envsdk import EnvironmentSingleTurn, RewardMetric, RewardResult

class Counting(EnvironmentSingleTurn):
    dataset = ["Say a."]
    def __init__(self, letter):
        self.letter = letter
    def build_prompt_messages(self, example, prompt_text):
        return [{"role": "user", "content": example.input}]
    def score_response(self, example, text):
        print("seen", example.input, example.output)
        if text == "raise":
            raise KeyError("gone")
        if text == "exit":
            os._exit(3)
        if text == "hang":
            while True:
                pass
        count = text.count(os.environ.get("LETTER", self.letter))
        return RewardResult(score=count / 10, metrics=(RewardMetric("count", score=count, reason="of the letter"),))

def load_environment(letter="a"):
    return Counting(letter)
"""


TALKING = """
from envsdk import EnvironmentMultiTurn, EnvironmentStepResult

class Talking(EnvironmentMultiTurn):
    def start_episode(self, example, prompt_text):
        return [{"role": "user", "content": example.input}]
    def max_episode_turns(self, example):
        return 3
    def step_episode(self, example, messages, text):
        if text == "raise":
            raise KeyError("gone")
        return EnvironmentStepResult(done=text == "enough", metadata={"text": text})
    def score_episode(self, example, episode):
        return len(episode.metadata["steps"])

def load_environment():
    return Talking()
"""


@pytest.fixture
def folder(project: Path) -> Path:
    (project / "environment.py").write_text(COUNTING)
    return project


def scored(capsys: Capture, *words: str) -> list[dict[str, Any]]:
    assert main(["env", "score", ".", "--input", "Say a.", "--output", "a", *words, "--json"]) == 0
    rollouts: list[dict[str, Any]] = json.loads(capsys.readouterr().out)["rollouts"]
    return rollouts


def test_a_reply_is_scored_on_a_folder_with_no_stack_up(folder: Path, capsys: Capture) -> None:
    (found,) = scored(capsys, "--text", "banana")

    assert found.keys() == {"reward", "success", "metrics", "fault", "output", "took_s"}
    assert (found["reward"], found["success"], found["fault"]) == (0.3, True, None)
    assert found["output"] == "seen Say a. a\n"
    assert found["took_s"] > 0
    (metric,) = found["metrics"]
    assert (metric["name"], metric["score"], metric["reason"]) == ("count", 3.0, "of the letter")


def test_the_config_s_worker_env_is_what_the_scorer_sees(folder: Path, capsys: Capture) -> None:
    (folder / "run.toml").write_text('model = "tiny"\n[worker_env]\nLETTER = "b"\n')

    (found,) = scored(capsys, "--text", "banana", "--config", "run.toml")

    assert found["reward"] == 0.1


def test_a_reply_per_text_makes_a_group_and_each_fault_is_its_own(folder: Path, capsys: Capture) -> None:
    texts = [word for text in ("aa", "raise", "exit", "hang", "b") for word in ("--text", text)]

    found = scored(capsys, *texts, "--deadline", "0.5")

    kinds = [rollout["fault"] and rollout["fault"]["kind"] for rollout in found]
    assert kinds == [None, "raised", "crashed", "timed-out", None]
    assert [rollout["reward"] for rollout in found] == [0.2, None, None, None, 0.0]
    assert found[1]["fault"].keys() == {"kind", "message", "traceback"}
    assert 'File "environment.py", line 14, in score_response' in found[1]["fault"]["traceback"]


def test_an_environment_of_several_turns_is_played_with_the_text_at_every_turn(project: Path, capsys: Capture) -> None:
    (project / "environment.py").write_text(TALKING)

    found = scored(capsys, "--text", "more", "--text", "enough", "--text", "raise")

    assert [rollout["reward"] for rollout in found] == [3.0, 1.0, None]
    assert found[2]["fault"]["message"] == "KeyError: 'gone'"


def test_a_row_may_have_metadata(project: Path, capsys: Capture) -> None:
    guess = str(Path(__file__).parents[2] / "examples/guess")
    words = ["env", "score", guess, "--input", "1 to 9", "--output", "7", "--text", "7", "--text", "9", "--json"]

    assert main([*words, "--metadata", '{"turns": 2}']) == 0

    found = json.loads(capsys.readouterr().out)["rollouts"]
    assert [(rollout["reward"], rollout["success"]) for rollout in found] == [(1.0, True), (pytest.approx(0.1), False)]


@pytest.mark.parametrize("text", ["[1]", "level=3", ""])
def test_metadata_that_is_no_json_object_is_refused(folder: Path, capsys: Capture, text: str) -> None:
    assert main(["env", "score", ".", "--input", "x", "--text", "a", "--metadata", text]) == 1

    said = capsys.readouterr().err
    assert f"--metadata is {text!r}, but a JSON object is wanted, for example '{{\"level\": 3}}'" in said


def test_params_come_from_the_config_and_those_of_the_command_win(folder: Path, capsys: Capture) -> None:
    (folder / "configs").mkdir()
    (folder / "configs/rl.toml").write_text('model = "tiny"\n[environment]\nid = ""\nparams = {letter = "b"}\n')

    assert scored(capsys, "--text", "abb")[0]["reward"] == 0.2
    assert scored(capsys, "--text", "abbccc", "--param", "letter=c")[0]["reward"] == pytest.approx(0.3)


def test_a_config_that_is_named_wins_over_the_projects_own(folder: Path, capsys: Capture) -> None:
    (folder / "other.toml").write_text('model = "tiny"\n[environment]\nid = ""\nparams = {letter = "z"}\n')

    assert scored(capsys, "--text", "azz", "--config", "other.toml")[0]["reward"] == 0.2


def test_a_single_file_can_be_scored(folder: Path, capsys: Capture) -> None:
    (folder / "environment.py").rename(folder / "mine.py")

    assert main(["env", "score", "mine.py", "--input", "x", "--text", "a", "--json"]) == 0

    assert json.loads(capsys.readouterr().out)["rollouts"][0]["output"] == "seen x None\n"


def test_an_environment_that_does_not_load_shows_the_authors_frames(folder: Path, capsys: Capture) -> None:
    (folder / "environment.py").write_text("import os\nKEY = os.environ['JUDGE_KEY']\n")

    assert main(["env", "score", ".", "--input", "x", "--text", "a", "--json"]) == 1

    said = capsys.readouterr()
    assert json.loads(said.out)["rollouts"][0]["fault"]["kind"] == "load-failed"
    assert "the environment reads the variable JUDGE_KEY, which is not set for it" in said.err
    assert 'File "environment.py", line 2' in said.err


def test_a_param_that_the_factory_does_not_take_is_refused(folder: Path, capsys: Capture) -> None:
    assert main(["env", "score", ".", "--input", "x", "--text", "a", "--param", "leter=b"]) == 1

    assert "does not take leter; it takes letter" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("param", "told"),
    [
        ("letter", "--param must be name=value"),
        ("letter=1e999", "--param.letter is inf, but a finite number is wanted"),
    ],
)
def test_a_param_that_cannot_be_one_is_refused(folder: Path, capsys: Capture, param: str, told: str) -> None:
    assert main(["env", "score", ".", "--input", "x", "--text", "a", "--param", param]) == 1

    assert told in capsys.readouterr().err


def test_a_published_environment_is_fetched_once_and_scored(folder: Path, fake_stack: Any, capsys: Capture) -> None:
    assert main(["env", "push", "--name", "letters"]) == 0
    (folder / "environment.py").unlink()
    capsys.readouterr()

    for reference in ("local/letters", "letters"):
        assert main(["env", "score", reference, "--input", "x", "--text", "aa", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["rollouts"][0]["reward"] == 0.2


def test_what_is_neither_a_folder_nor_an_id_is_told(project: Path, capsys: Capture) -> None:
    assert main(["env", "score", "./nowhere", "--input", "x", "--text", "a"]) == 1

    assert "./nowhere is neither a folder with environment.py nor the id of an environment" in capsys.readouterr().err


def test_on_a_terminal_or_not_the_command_works_as_a_process(folder: Path) -> None:
    command = [sys.executable, "-m", "cli", "env", "score", str(folder), "--input", "x", "--text", "a"]

    done = subprocess.run(command, capture_output=True, text=True, check=True)

    assert json.loads(done.stdout)["rollouts"][0]["reward"] == 0.1
