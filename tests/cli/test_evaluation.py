"""`flash env eval --url`: an environment that runs here, against an endpoint in this process."""

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from cli.__main__ import main
from cli.results import Row, read_rows

Capture = pytest.CaptureFixture[str]

SAYING = """
from envsdk import EnvironmentSingleTurn, RewardMetric, RewardResult

class Saying(EnvironmentSingleTurn):
    def build_prompt_messages(self, example, prompt_text):
        return [{"role": "user", "content": example.input}]
    def score_response(self, example, text):
        if text == "odd":
            raise ValueError("an odd answer")
        is_right = text == example.output
        return RewardResult(score=float(is_right), metrics=(RewardMetric("length", score=len(text)),))

def load_environment():
    return Saying()
"""

COMPARING = """
from envsdk import EnvironmentSingleTurn, RewardResult

class Comparing(EnvironmentSingleTurn):
    def build_prompt_messages(self, example, prompt_text):
        return [{"role": "user", "content": example.input}]
    def score_response(self, example, text):
        raise NotImplementedError
    def score_responses(self, example, texts):
        return [RewardResult(score=len(texts)) for text in texts]

def load_environment():
    return Comparing()
"""


@dataclass
class FakeEndpoint:
    """Answers each question as `answer` says, from the question and its number."""

    answer: Callable[[dict[str, Any], int], Any] = lambda question, number: question["messages"][-1]["content"]
    """The text, or a status and a body."""
    questions: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    models: tuple[str, ...] = ("only",)
    url: str = ""

    def reply(self, path: str, headers: dict[str, str], body: bytes) -> tuple[int, Any]:
        if path.endswith("/models"):
            return 200, {"data": [{"id": name} for name in self.models]}
        question = json.loads(body)
        self.questions.append(question)
        self.headers.append(headers)
        said = self.answer(question, len(self.questions))
        if isinstance(said, tuple):
            return said
        usage = {"prompt_tokens": 7, "completion_tokens": 3}
        choice = {"message": {"role": "assistant", "content": said}, "finish_reason": "stop"}
        return 200, {"choices": [choice], "usage": usage}


@pytest.fixture
def endpoint() -> Iterator[FakeEndpoint]:
    fake = FakeEndpoint()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            status, found = fake.reply(self.path, headers, body)
            sent = json.dumps(found).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(sent)))
            self.end_headers()
            self.wfile.write(sent)

        do_GET = do_POST

        def log_message(self, *args: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    fake.url = f"http://127.0.0.1:{server.server_port}/v1"
    yield fake
    server.shutdown()
    server.server_close()


@pytest.fixture
def folder(project: Path) -> Path:
    """An environment whose rows want what they say; the eval split's do not all."""
    (project / "environment.py").write_text(SAYING)
    (project / "dataset").mkdir()
    rows = {"train": [("a", "a")] * 5, "eval": [("right", "right"), ("wrong", "no"), ("right", "right")]}
    for split, pairs in rows.items():
        lines = (json.dumps({"input": said, "output": wanted}) for said, wanted in pairs)
        (project / f"dataset/{split}.jsonl").write_text("\n".join(lines))
    return project


def evaluated(endpoint: FakeEndpoint, *words: str, code: int = 0) -> None:
    assert main(["env", "eval", ".", "--url", endpoint.url, *words]) == code


CALLING = """
import verifiers as vf

def double(n: int): return 2 * n

def load_environment():
    exact = lambda completion, answer: float(completion[-1].content == answer)
    return vf.ToolEnv(tools=[double], dataset=[{"question": "q", "answer": "4"}], rubric=vf.Rubric([exact]))
"""


def rows_of(folder: Path) -> list[Row]:
    (path,) = (folder / "evals" / folder.name).iterdir()
    return sorted(read_rows(path), key=lambda row: (row.index, row.rollout))


def test_an_evaluation_prints_the_lines_of_the_page(folder: Path, endpoint: FakeEndpoint, capsys: Capture) -> None:
    evaluated(endpoint, "-r", "2")

    said = capsys.readouterr()
    assert [line for line in said.err.splitlines() if not line.startswith("saved ")][:12] == [
        "Loading environment: .",
        f"project, split eval, only at {endpoint.url}",
        "Running 3 examples × 2 rollouts = 6 total rollouts",
        "Progress: 6/6 (100%)",
        "Results:",
        "Reward: 0.67 ± 0.47",
        "Success: 66.7%",
        "pass@1: 66.7%  pass@2: 66.7%",
        "length: 5.00 ± 0.00",
        "Faults: 0 of 6 rollouts",
        "Truncated: 0.0%",
        "Tokens per answer: 3.0",
    ]
    found = json.loads(said.out)
    assert (found["reward"], found["examples"], found["rollouts"], found["state"]) == (
        pytest.approx(2 / 3),
        3,
        6,
        "done",
    )
    assert (found["environment"], found["split"], found["pass_at"]["1"]) == ("project", "eval", pytest.approx(2 / 3))
    assert found["timing"]["rollouts_per_s"] > 0


def test_every_rollout_is_a_row_of_the_file_with_what_was_asked_and_said(folder: Path, endpoint: FakeEndpoint) -> None:
    evaluated(endpoint, "-n", "2")

    right, wrong = rows_of(folder)
    assert (right.completion, right.reward, right.success, right.metrics) == ("right", 1.0, True, {"length": 5.0})
    assert (wrong.example, wrong.reward, wrong.prompt) == (
        "example_000001", 0.0, [{"role": "user", "content": "wrong"}],
    )  # fmt: skip
    assert (right.prompt_tokens, right.completion_tokens, right.finish_reason) == (7, 3, "stop")


def test_without_an_eval_split_the_training_rows_are_played_and_that_is_said(
    folder: Path, endpoint: FakeEndpoint, capsys: Capture
) -> None:
    (folder / "dataset/eval.jsonl").unlink()

    evaluated(endpoint)

    assert "split train" in capsys.readouterr().err
    assert len(rows_of(folder)) == 5


def test_a_split_can_be_named(folder: Path, endpoint: FakeEndpoint, capsys: Capture) -> None:
    evaluated(endpoint, "--split", "train", "-n", "2")

    assert json.loads(capsys.readouterr().out)["split"] == "train"


def test_what_is_asked_has_the_sampling_and_another_seed_for_each_rollout(folder: Path, endpoint: FakeEndpoint) -> None:
    evaluated(endpoint, "-n", "1", "-r", "3", "--temperature", "0.5", "--max-tokens", "9", "-m", "mine")

    assert {(q["model"], q["temperature"], q["max_tokens"]) for q in endpoint.questions} == {("mine", 0.5, 9)}
    assert len({q["seed"] for q in endpoint.questions}) == 3


def test_a_fault_of_the_scorer_is_counted_and_shown_and_the_rest_goes_on(
    folder: Path, endpoint: FakeEndpoint, capsys: Capture
) -> None:
    endpoint.answer = lambda question, number: "odd" if number == 1 else "right"

    evaluated(endpoint, "--concurrency", "1")

    said = capsys.readouterr()
    found = json.loads(said.out)
    assert (found["faults"], found["faults_by_kind"], found["rollouts"]) == (1, {"raised": 1}, 3)
    assert found["reward"] == 0.5
    assert "fault raised: ValueError: an odd answer" in said.err
    assert 'File "environment.py", line 9, in score_response' in said.err


def test_a_question_without_answer_is_a_fault_that_resume_asks_again(
    folder: Path, endpoint: FakeEndpoint, capsys: Capture
) -> None:
    endpoint.answer = lambda question, number: (400, {"error": {"message": "too long"}}) if number == 2 else "right"
    evaluated(endpoint, "--concurrency", "1")
    first = json.loads(capsys.readouterr().out)
    assert first["faults_by_kind"] == {"generation-failed": 1}

    evaluated(endpoint, "--resume", first["saved"])

    second = json.loads(capsys.readouterr().out)
    assert (second["rollouts"], second["faults"]) == (3, 0)
    assert len(endpoint.questions) == 4


def test_an_endpoint_that_fails_for_good_leaves_rows_to_go_on_with(
    folder: Path, endpoint: FakeEndpoint, capsys: Capture
) -> None:
    evaluated(endpoint, "--split", "train", "-r", "4")
    whole = json.loads(capsys.readouterr().out)
    for path in (folder / "evals/project").iterdir():
        path.unlink()
    endpoint.questions.clear()
    echo = endpoint.answer
    endpoint.answer = lambda question, number: echo(question, number) if number <= 8 else (401, {"error": "quota"})
    evaluated(endpoint, "--split", "train", "-r", "4", "--concurrency", "2", code=1)
    err = capsys.readouterr().err
    assert "says 401: quota" in err
    (path,) = (folder / "evals/project").iterdir()
    assert f"go on with --resume {path.relative_to(folder)}" in err

    endpoint.answer = echo
    before = len(list(read_rows(path)))
    endpoint.questions.clear()
    evaluated(endpoint, "--split", "train", "-r", "4", "--resume", str(path))

    again = json.loads(capsys.readouterr().out)
    assert len(endpoint.questions) == 20 - before
    same = ("reward", "rollouts", "success", "metrics", "pass_at", "faults")
    assert {key: again[key] for key in same} == {key: whole[key] for key in same}


def test_an_environment_that_compares_answers_gets_the_whole_group(
    folder: Path, endpoint: FakeEndpoint, capsys: Capture
) -> None:
    (folder / "environment.py").write_text(COMPARING)

    evaluated(endpoint, "-r", "3")

    assert json.loads(capsys.readouterr().out)["reward"] == 3.0


def test_a_key_is_sent_only_where_its_variable_is_named(
    folder: Path, endpoint: FakeEndpoint, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "not-yours")
    monkeypatch.setenv("MY_KEY", "mine")

    evaluated(endpoint, "-n", "1")
    evaluated(endpoint, "-n", "1", "--api-key-env", "MY_KEY")

    assert [headers.get("authorization") for headers in endpoint.headers] == [None, "Bearer mine"]
    evaluated(endpoint, "--api-key-env", "NOBODYS_KEY", code=1)
    assert "--api-key-env is NOBODYS_KEY, but that variable is not set here" in capsys.readouterr().err


def test_a_model_is_wanted_where_the_endpoint_has_several(
    folder: Path, endpoint: FakeEndpoint, capsys: Capture
) -> None:
    endpoint.models = ("one", "two")

    evaluated(endpoint, code=1)

    assert "serves one, two: name one" in capsys.readouterr().err


def test_an_environment_that_does_not_load_is_told_with_the_authors_frames(
    folder: Path, endpoint: FakeEndpoint, capsys: Capture
) -> None:
    (folder / "environment.py").write_text("1 / 0\n")

    evaluated(endpoint, code=1)

    err = capsys.readouterr().err
    assert "error: . cannot be used: ZeroDivisionError" in err
    assert 'File "environment.py", line 1' in err


def test_thoughts_that_the_server_tells_apart_are_thoughts_for_the_scorer(
    folder: Path, endpoint: FakeEndpoint, capsys: Capture
) -> None:
    (folder / "think.toml").write_text('model = "Qwen/Qwen3-0.6B"\nthinking = true\n[environment]\nid = ""\n')
    endpoint.answer = lambda question, number: f"<think>so</think>{question['messages'][-1]['content']}"

    evaluated(endpoint, "--config", "think.toml", "-n", "1")

    assert json.loads(capsys.readouterr().out)["reward"] == 1.0
    assert rows_of(folder)[0].completion == "<think>so</think>right"


GUESSING = """
from envsdk import EnvironmentMultiTurn, EnvironmentStepResult, RewardResult

class Guessing(EnvironmentMultiTurn):
    def start_episode(self, example, prompt_text):
        return [{"role": "user", "content": example.input}]
    def max_episode_turns(self, example):
        return 4
    def step_episode(self, example, messages, text):
        if text == "crash":
            raise ValueError("an odd guess")
        done = text == str(example.output)
        return EnvironmentStepResult(done=done, messages=() if done else ({"role": "user", "content": "higher"},))
    def score_episode(self, example, episode):
        turns = sum(message["role"] == "assistant" for message in episode.messages)
        return RewardResult(score=1 / turns if episode.response_text == str(example.output) else 0.0)

def load_environment():
    return Guessing()
"""


@pytest.fixture
def guessing(folder: Path) -> Path:
    (folder / "environment.py").write_text(GUESSING)
    rows = [{"input": f"Which number? ({n})", "output": n} for n in (1, 2, 9)]
    (folder / "dataset/eval.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    return folder


def count_up(question: dict[str, Any], number: int) -> str:
    return str(sum(message["role"] == "assistant" for message in question["messages"]) + 1)


def test_episodes_of_several_turns_are_played_to_their_end(
    guessing: Path, endpoint: FakeEndpoint, capsys: Capture
) -> None:
    endpoint.answer = count_up

    evaluated(endpoint, "-r", "2")

    found = json.loads(capsys.readouterr().out)
    assert (found["reward"], found["rollouts"], found["success"]) == (0.5, 6, pytest.approx(2 / 3))
    rows = rows_of(guessing)
    assert [row.reward for row in rows] == [1.0, 1.0, 0.5, 0.5, 0.0, 0.0]
    assert [message["content"] for message in rows[2].messages] == ["1", "higher", "2"]
    assert (rows[4].completion, rows[4].completion_tokens, rows[4].prompt_tokens) == ("4", 12, 28)


def test_an_answer_that_was_cut_is_stepped_and_is_the_last_of_its_episode(
    guessing: Path, endpoint: FakeEndpoint, capsys: Capture
) -> None:
    def answer(question: dict[str, Any], number: int) -> Any:
        said = {"role": "assistant", "content": count_up(question, number)}
        return 200, {"choices": [{"message": said, "finish_reason": "length" if said["content"] == "2" else "stop"}]}

    endpoint.answer = answer

    evaluated(endpoint)

    assert json.loads(capsys.readouterr().out)["truncated"] == pytest.approx(2 / 3)
    rows = rows_of(guessing)
    assert [(row.finish_reason, row.reward) for row in rows] == [("stop", 1.0), ("length", 0.5), ("length", 0.0)]
    assert [message["content"] for message in rows[2].messages] == ["1", "higher", "2", "higher"]


def test_what_fails_in_one_episode_leaves_the_others(guessing: Path, endpoint: FakeEndpoint, capsys: Capture) -> None:
    def answer(question: dict[str, Any], number: int) -> Any:
        if "(2)" in question["messages"][0]["content"]:
            return "crash"
        return (400, {"error": "too long"}) if "(9)" in question["messages"][0]["content"] else "1"

    endpoint.answer = answer

    evaluated(endpoint)

    found = json.loads(capsys.readouterr().out)
    assert (found["reward"], found["faults_by_kind"]) == (1.0, {"generation-failed": 1, "raised": 1})


def test_tools_are_called_by_fields_of_the_reply(folder: Path, endpoint: FakeEndpoint, capsys: Capture) -> None:
    (folder / "environment.py").write_text(CALLING)

    def answer(question: dict[str, Any], number: int) -> Any:
        if question["messages"][-1]["role"] == "tool":
            return question["messages"][-1]["content"]
        call = {"id": "x", "function": {"name": question["tools"][0]["function"]["name"], "arguments": '{"n": 2}'}}
        return 200, {"choices": [{"message": {"content": None, "tool_calls": [call]}}]}

    endpoint.answer = answer

    evaluated(endpoint, "--split", "train")

    assert json.loads(capsys.readouterr().out)["reward"] == 1.0
    assert [message["tool_call_id"] for message in endpoint.questions[-1]["messages"][2:]] == ["call_0"]
