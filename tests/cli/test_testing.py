"""`flash env test`: what it catches, each with one clear line."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from cli.__main__ import main

Capture = pytest.CaptureFixture[str]

HEAD = """
import os, random, time
from envsdk import EnvironmentMultiTurn, EnvironmentSingleTurn, EnvironmentStepResult, RewardMetric, RewardResult

class Task(EnvironmentSingleTurn):
    def build_prompt_messages(self, example, prompt_text):
        return [{"role": "user", "content": example.input}]
    def score_response(self, example, text):
"""
TAIL = """
def load_environment():
    return Task()
"""
SOUND = "        return float(text.strip() == example.output)"

ROWS = [{"input": f"Say {word}.", "output": word} for word in ("one", "two", "three", "four", "five")]


@pytest.fixture
def tested(project: Path, capsys: Capture) -> Any:
    """Test an environment whose `score_response` has this body; gives the exit code and what was found."""

    def run(body: str = SOUND, rows: list[Any] = ROWS, *words: str, whole: str = "") -> tuple[int, dict[str, Any], str]:
        (project / "environment.py").write_text(whole or HEAD + body + TAIL)
        (project / "dataset").mkdir(exist_ok=True)
        (project / "dataset/train.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
        code = main(["env", "test", *words, "--json"])
        said = capsys.readouterr()
        return code, json.loads(said.out), said.err

    return run


def test_a_sound_environment_passes_and_says_what_was_covered(tested: Any) -> None:
    code, found, err = tested()

    assert (code, found["passed"], found["findings"]) == (0, True, [])
    assert err.splitlines()[-2:] == ["PASS", "next: flash env push --name NAME ."]
    covered = found["covered"]
    assert covered["files"] == ["dataset/train.jsonl", "environment.py"]
    assert (covered["rows"], covered["algorithms"]) == ({"train": 5}, ["grpo", "sft"])
    assert {"an empty answer", "a huge answer", "odd Unicode", "torn JSON"} <= set(covered["adversarial"])
    assert covered["answers"] > 60
    assert [line.split()[:2] for line in err.splitlines() if line.startswith("PASS ")] == [
        ["PASS", check] for check in ("package", "loads", "rows", "deadline", "faults", "order", "rewards")
    ]


HOSTILE = {
    "always 0": (
        "        return 0.0",
        r"the scorer gives 0 to all \d+ answers, the expected ones included",
    ),
    "always the same": (
        "        return 0.5",
        r"the scorer gives 0\.5 to all \d+ answers, right or wrong",
    ),
    "raises on odd text": (
        "        return float(text.split()[0] == example.output)",
        r"the scorer raises on an empty answer \(row 1, and on \d+ other replies\): IndexError: list index",
    ),
    "raises on the expected answer": (
        "        return float(text.strip() == example['output'])",
        r"the scorer raises on the expected answer \(row 1, .*TypeError: 'TaskExample' object is not subscriptable",
    ),
    "no number": (
        "        if text == 'NaN':\n            return float(text)\n" + SOUND,
        r"the scorer gives no reward on not a number \(row 1, .*nan",
    ),
    "hangs": (
        "        while text == '1/0':\n            pass\n" + SOUND,
        r"the scorer hangs on a division by zero \(row 1\): score_response: no answer within 0\.5 s",
    ),
    "crashes": (
        "        if text == '{}':\n            os._exit(3)\n" + SOUND,
        r"the scorer brings its process down on empty JSON \(row 1, .*exited with status 3",
    ),
    "depends on call order": (
        "        self.calls = getattr(self, 'calls', 0) + 1\n        return 1.0 / self.calls",
        r"the reward depends on the order of calls, or on chance: the expected answer to row 1 earns 1 at first and "
        r"0\.\d+ after ",
    ),
    "draws lots": (
        "        return random.random()",
        r"the reward depends on the order of calls, or on chance",
    ),
    "pays for length": (
        "        return min(len(text), 1000) / 1000",
        r"a huge answer earns 1 where the expected answer earns 0\.00\d: row 1, and in 3 more rows",
    ),
    "pays for the answer of another row": (
        "        return float(text in ('one', 'two', 'three', 'four'))",
        r"the expected answer of another row earns 1 where the expected answer earns 0: row 5",
    ),
    "a secret that is not set": (
        "        return float(text == os.environ['JUDGE_KEY'])",
        r"the scorer reads the variable JUDGE_KEY, which is not set for it: on the expected answer",
    ),
}


@pytest.mark.parametrize(("body", "sentence"), HOSTILE.values(), ids=HOSTILE)
def test_what_would_spoil_a_run_is_caught_with_one_clear_line(tested: Any, body: str, sentence: str) -> None:
    code, found, err = tested(body, ROWS, "--deadline", "0.5")

    assert (code, found["passed"]) == (1, False)
    messages = [finding["message"] for finding in found["findings"]]
    assert [message for message in messages if re.search(sentence, message)], messages
    assert len([line for line in err.splitlines() if line.startswith("FAIL  ") and re.search(sentence, line)]) == 1


BAD_ROWS = {
    "missing": (
        [*ROWS[:3], {"input": "Say four."}, *ROWS[4:]],
        "split train: row 4 has no output, the target of SFT: it would refuse them",
    ),
    "empty": ([*ROWS[:2], {"input": "x", "output": " "}], "split train: row 3 has an output that says nothing"),
    "malformed": (
        [ROWS[0], {"input": "x", "output": {"messages": [], "other": 1}}],
        "split train: ValueError: row 2: output has `messages` and also other; wanted `messages` alone",
    ),
    "no input": ([ROWS[0], {"prompt": "x"}], "has no `input`"),
}


@pytest.mark.parametrize(("rows", "sentence"), BAD_ROWS.values(), ids=BAD_ROWS)
def test_a_target_that_is_missing_or_malformed_is_named(tested: Any, rows: list[Any], sentence: str) -> None:
    code, found, _ = tested(SOUND, rows)

    assert code == 1
    assert any(sentence in finding["message"] for finding in found["findings"]), found["findings"]


def test_an_environment_without_outputs_is_one_for_grpo_and_that_is_said(tested: Any) -> None:
    code, found, _ = tested("        return float('a' in text)", [{"input": "Say a."}])

    assert code == 0
    assert "SFT has nothing to learn from" in found["notes"][-1]


def test_an_output_that_wants_a_format_is_found_in_it_and_that_is_said(tested: Any) -> None:
    body = "        return float(f'<word>{example.output}</word>' in text)"
    rows = [{**row, "input": f"{row['input']} Write <word>...</word>."} for row in ROWS]

    code, found, _ = tested(body, rows)

    assert code == 0, found
    assert any("earns nothing as it is, but 1 inside <word>" in note for note in found["notes"])


def test_what_does_not_load_is_shown_with_the_authors_frames(tested: Any) -> None:
    code, found, err = tested(whole="KEY = __import__('os').environ['JUDGE_KEY']\n")

    assert code == 1
    (finding,) = found["findings"]
    assert finding["message"] == (
        "the environment reads the variable JUDGE_KEY, which is not set for it: name it in `[environment] secrets` of "
        "the config"
    )
    assert 'File "environment.py", line 1' in err


def test_what_may_not_travel_fails_before_anything_is_loaded(tested: Any, project: Path) -> None:
    (project / "notes.txt").write_text("-----BEGIN PRIVATE KEY-----\n")

    code, found, _ = tested()

    assert code == 1
    assert "notes.txt line 1 holds a private key" in found["findings"][0]["message"]


def test_a_sibling_that_is_not_packed_is_missed_as_a_run_would_miss_it(tested: Any, project: Path) -> None:
    (project / "data.bin").write_bytes(b"x")

    code, found, _ = tested(whole=HEAD + SOUND + "\nopen(__file__.replace('environment.py', 'data.bin'))" + TAIL)

    assert code == 1
    assert "FileNotFoundError" in found["findings"][0]["message"]


MULTI = (
    HEAD
    + SOUND
    + """
class Guess(EnvironmentMultiTurn):
    def start_episode(self, example, prompt_text):
        return [{"role": "user", "content": example.input}]
    def max_episode_turns(self, example):
        return 3
    def step_episode(self, example, messages, text):
        return EnvironmentStepResult(done=text == example.output, messages=({"role": "user", "content": "no"},))
    def score_episode(self, example, episode):
        return {score}

def load_environment():
    return Guess()
"""
)


def test_an_environment_of_several_turns_is_played_to_the_end(tested: Any) -> None:
    code, found, _ = tested(whole=MULTI.replace("{score}", "float(episode.response_text == example.output)"))

    assert (code, found["findings"]) == (0, [])


TOOLS = (
    HEAD
    + SOUND
    + """
class Add(EnvironmentMultiTurn):
    def start_episode(self, example, prompt_text):
        shot = [{"role": "user", "content": "1 + 1"}, {"role": "assistant", "content": "2"}]
        return [*shot, {"role": "user", "content": example.input}]
    def max_episode_turns(self, example):
        return 2
    def step_episode(self, example, messages, text):
        called = text == '<tool_call>\\n{"name": "add", "arguments": {"a": 2, "b": 3}}\\n</tool_call>'
        return EnvironmentStepResult(
            done=not called, messages=({"role": "tool", "content": "5"},) if called else (), metadata={"called": called}
        )
    def score_episode(self, example, episode):
        return float(episode.metadata["steps"][0]["called"] and episode.response_text == "5")

def load_environment():
    return Add()
"""
)


@pytest.mark.parametrize("arguments", [{"a": 2, "b": 3}, '{"a": 2, "b": 3}'])
def test_a_gold_trajectory_is_played_turn_by_turn_with_its_calls_in_words(tested: Any, arguments: Any) -> None:
    call = {"type": "function", "function": {"name": "add", "arguments": arguments}}
    turns = [
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "5"},
        {"role": "assistant", "content": "5"},
    ]

    code, found, _ = tested(rows=[{"input": "2 + 3", "output": {"messages": turns}}] * 2, whole=TOOLS)

    assert (code, found["findings"]) == (0, [])


def test_a_fault_in_an_episode_is_found(tested: Any) -> None:
    code, found, _ = tested(whole=MULTI.replace("{score}", "1 / (len(episode.messages) - 7)"))

    assert code == 1
    assert any("the scorer raises on " in finding["message"] for finding in found["findings"]), found["findings"]


def test_params_and_thinking_come_from_the_config(tested: Any, project: Path) -> None:
    (project / "think.toml").write_text('model = "Qwen/Qwen3-0.6B"\nthinking = true\n[environment]\nid = ""\n')

    code, found, _ = tested(SOUND, ROWS, "--config", "think.toml")

    assert code == 0
    assert any("5 outputs have no <think> and </think>, the first in row 1" in note for note in found["notes"])
