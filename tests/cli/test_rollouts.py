"""`flash rollouts`, against a recorder that answers what the test wants."""

import json
from pathlib import Path
from typing import Any

import pytest

from cli.__main__ import main
from cli.rollouts import reasoning_and_answer
from flash.bus.memory import MemoryBus
from flash.contracts.base import FilePart
from flash.contracts.record import (
    RecordedRollout,
    RolloutsAsked,
    RolloutsExport,
    RolloutsFind,
    RolloutsPage,
)
from flash.contracts.values import Fault
from flash.errors import NotFound, Refused

Capture = pytest.CaptureFixture[str]


def rollout(index: int, **fields: Any) -> RecordedRollout:
    known: dict[str, Any] = {
        "step": 3, "group_id": "train-3-1", "index": index, "example_id": "row-7",
        "prompt": [{"role": "user", "content": "2 + 2?"}],
        "completion": [{"role": "assistant", "content": "<think>two and two</think>\n4 is\nthe answer"}],
        "reward": 0.5, "advantage": 0.25, "metrics": {"exact": 1.0}, "fault": None, "policy_version": 2,
        "environment_version": "abc", "finish_reason": "stop",
    }  # fmt: skip
    return RecordedRollout(**(known | fields))


FAULTED = rollout(
    1, reward=None, advantage=None, metrics={},
    fault=Fault(kind="raised", message="KeyError: 'x'", traceback="environment.py, line 3"),
)  # fmt: skip


class Recorder:
    """Answers with what it was given, two at a time."""

    def __init__(self) -> None:
        self.asked: list[RolloutsAsked] = []
        self.rollouts = [rollout(0), FAULTED]
        self.error: Exception | None = None

    async def connect(self, *_: object, **__: object) -> MemoryBus:
        bus = MemoryBus()
        await bus.answer("recorder", {RolloutsFind: self.on_find, RolloutsExport: self.on_export})
        return bus

    async def on_find(self, asked: RolloutsFind) -> RolloutsPage:
        self.asked.append(asked)
        if self.error:
            raise self.error
        page = self.rollouts[asked.offset : asked.offset + min(2, asked.limit)]
        return RolloutsPage(rollouts=page, total=len(self.rollouts))

    async def on_export(self, asked: RolloutsExport) -> Any:
        self.asked.append(asked)
        for data in (b"PAR1", b"...", b"PAR1"):
            yield FilePart(data=data)


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    found = Recorder()
    monkeypatch.setattr("cli.session.connect", found.connect)
    return found


@pytest.fixture
def on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cli.output.wants_json", lambda options: bool(options.json))
    monkeypatch.setenv("COLUMNS", "80")


def test_a_pipe_gets_json_with_how_many_there_are(recorder: Recorder, capsys: Capture) -> None:
    assert main(["rollouts", "r1", "-n", "1"]) == 0

    found = json.loads(capsys.readouterr().out)
    assert (found["run_id"], found["total"]) == ("r1", 2)
    [only] = found["rollouts"]
    assert (only["rollout"], only["reward"], only["metrics"]) == ("train-3-1/0", 0.5, {"exact": 1.0})
    assert "token_ids" not in only


def test_what_is_wanted_is_asked_of_the_recorder(recorder: Recorder) -> None:
    main(
        ["rollouts", "r1", "--step", "3", "--example", "row-7", "--min-reward", "0", "--max-reward", "-1.5", "--faults",
         "--where", "reward > 0", "--sort", "reward desc, step", "--offset", "1"]
    )  # fmt: skip

    assert recorder.asked == [
        RolloutsFind(
            org="local", run_id="r1", step=3, example="row-7", min_reward=0.0, max_reward=-1.5, faults=True,
            where="reward > 0", sort=["-reward", "step"], offset=1, limit=20,
        )
    ]  # fmt: skip


def test_more_than_an_answer_holds_is_asked_for_in_several(recorder: Recorder, capsys: Capture) -> None:
    recorder.rollouts = [rollout(index) for index in range(5)]

    main(["rollouts", "r1", "-n", "4"])

    assert [found["index"] for found in json.loads(capsys.readouterr().out)["rollouts"]] == [0, 1, 2, 3]
    assert len(recorder.asked) == 2


def test_a_terminal_gets_a_line_a_rollout_in_eighty_columns(
    recorder: Recorder, capsys: Capture, on_a_terminal: None
) -> None:
    recorder.rollouts = [rollout(0), FAULTED, rollout(2, completion=[{"role": "assistant", "content": "word " * 50}])]

    assert main(["rollouts", "r1"]) == 0

    said = capsys.readouterr()
    head, first, second, third = said.out.splitlines()
    assert head.split() == ["ROLLOUT", "EXAMPLE", "REWARD", "ADVANTAGE", "ANSWER"]
    assert first.split() == ["train-3-1/0", "row-7", "0.500", "0.250", "4", "is", "the", "answer"]
    assert second.split() == ["train-3-1/1", "row-7", "raised:", "KeyError:", "'x'"]
    assert len(third.rstrip()) <= 80
    assert "1 to 3 of 3" in said.err
    assert "flash rollouts r1 train-3-1/0" in said.err


def test_one_rollout_is_shown_whole(recorder: Recorder, capsys: Capture, on_a_terminal: None) -> None:
    assert main(["rollouts", "r1", "train-3-1/0"]) == 0

    out = capsys.readouterr().out
    assert "metrics     exact=1.0" in out
    assert "-- prompt\n2 + 2?" in out
    assert "-- reasoning\ntwo and two" in out
    assert "-- answer\n4 is\nthe answer" in out
    assert recorder.asked == [
        RolloutsFind(org="local", run_id="r1", group_id="train-3-1", index=0, limit=20, tokens=True)
    ]


def test_a_fault_is_shown_with_the_authors_traceback(recorder: Recorder, capsys: Capture, on_a_terminal: None) -> None:
    recorder.rollouts = [FAULTED]

    main(["rollouts", "r1", "train-3-1/1"])

    assert "fault       raised: KeyError: 'x'\nenvironment.py, line 3" in capsys.readouterr().out


def test_an_episode_is_shown_turn_by_turn(recorder: Recorder, capsys: Capture, on_a_terminal: None) -> None:
    call = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "add"}}]}
    turns = [call, {"role": "tool", "content": "4"}, {"role": "assistant", "content": "It is 4."}]
    recorder.rollouts = [rollout(0, completion=turns)]

    main(["rollouts", "r1", "train-3-1/0"])

    out = capsys.readouterr().out
    assert (
        out.index('-- calls\n[{"function":{"name":"add"}}]') < out.index("-- tool\n4") < out.index("-- answer\nIt is")
    )


def test_an_export_is_written_once_and_nothing_is_overwritten(
    recorder: Recorder, capsys: Capture, tmp_path: Path
) -> None:
    folder = tmp_path / "out"

    assert main(["rollouts", "r1", "--faults", "--export", str(folder)]) == 0
    assert (folder / "rollouts.parquet").read_bytes() == b"PAR1...PAR1"
    assert capsys.readouterr().out.strip() == str(folder / "rollouts.parquet")
    assert recorder.asked == [RolloutsExport(org="local", run_id="r1", faults=True)]
    assert main(["rollouts", "r1", "--export", str(folder)]) == 1
    assert "is there already" in capsys.readouterr().err
    assert [path.name for path in folder.iterdir()] == ["rollouts.parquet"]


@pytest.mark.parametrize(
    ("arguments", "error", "sentence"),
    [
        (["train-3-1"], None, "'train-3-1' is no rollout: they are called like train-3-1/0"),
        (["-n", "0"], None, "-n is 0, but 1 or more is wanted"),
        (["--sort", "reward down"], None, "--sort has 'reward down', but a column is wanted"),
        ([], NotFound("there is no run r1: `flash runs` lists them"), "there is no run r1"),
        (["--where", "1 >"], Refused("the condition cannot be read: syntax error"), "the condition cannot be read"),
    ],
)
def test_what_cannot_be_shown_is_said_in_one_sentence(
    recorder: Recorder, capsys: Capture, arguments: list[str], error: Exception | None, sentence: str
) -> None:
    recorder.error = error

    assert main(["rollouts", "r1", *arguments]) == 1

    assert sentence in capsys.readouterr().err


def test_a_rollout_that_is_not_there_is_not_found(recorder: Recorder, capsys: Capture) -> None:
    recorder.rollouts = []

    assert main(["rollouts", "r1", "train-9-9/0"]) == 1
    assert "r1 has no rollout train-9-9/0" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("four", ("", "four")),
        ("<think>hm</think>four", ("hm", "four")),
        ("hm</think>\nfour", ("hm", "four")),
        ("<think>hm, and then", ("hm, and then", "")),
    ],
)
def test_a_thought_is_told_from_the_answer(text: str, parts: tuple[str, str]) -> None:
    assert reasoning_and_answer(text) == parts
