"""`flash trace`: facts as a tree, with the time of each hop."""

import json
from pathlib import Path
from typing import Any

import pytest

from cli.__main__ import main
from cli.tracing import Node, drawn, selected, tree
from flash.contracts.requests import RecordedEvent


def fact(sequence: int, event: str, at: float, caused_by: str = "", **body: Any) -> RecordedEvent:
    subject = ".".join(["flash", event, *(str(body[key]) for key in ("scope", "step", "group") if key in body)])
    return RecordedEvent(
        sequence=sequence, time=at, subject=subject, caused_by=caused_by, event=f"{event}.v1", body=body
    )


def group(sequence: int, happened: str, at: float, number: int, caused_by: str, **more: Any) -> RecordedEvent:
    return fact(sequence, f"group.{happened}", at, caused_by, scope="train", step=1, group=number, **more)


RUN = [
    fact(1, "run.started", 10.0),
    fact(2, "step.finished", 12.0, "flash.run.started", step=0),
    group(3, "requested", 12.1, 0, "flash.step.finished.0"),
    group(4, "requested", 12.2, 1, "flash.step.finished.0"),
    group(5, "generated", 13.1, 1, "flash.group.requested.train.1.1", replica="rollout-1"),
    group(6, "generated", 14.1, 0, "flash.group.requested.train.1.0"),
    group(7, "scored", 13.4, 1, "flash.group.generated.train.1.1"),
    group(8, "scored", 14.6, 0, "flash.group.generated.train.1.0"),
    fact(9, "step.finished", 15.0, "flash.run.started", step=1),
    fact(10, "step.saved", 15.5, "flash.run.started", step=1, final=True),
]


def lines(roots: list[Node]) -> list[str]:
    return [line for root in roots for line in drawn(root)]


def test_a_group_is_drawn_from_what_led_to_it_to_its_reward() -> None:
    chosen = {"step": None, "scope": "train", "of": "1", "group": "1"}

    assert lines(tree(selected(RUN, chosen))) == [
        "step.finished 0",
        "└─ group.requested train-1-1  +200 ms",
        "   └─ group.generated train-1-1  +900 ms  replica=rollout-1",
        "      └─ group.scored train-1-1  +300 ms",
    ]


def test_a_steps_time_counts_from_the_last_of_its_groups_and_its_saves_from_the_step() -> None:
    drawing = lines(tree(RUN))

    assert "├─ step.finished 1  +400 ms" in drawing
    assert "└─ step.saved 1  +500 ms  final=True" in drawing
    assert lines(tree([e for e in RUN if not e.event.startswith("group.")])) == [
        "run.started",
        "├─ step.finished 0  +2.00 s",
        "├─ step.finished 1  +3.00 s",
        "└─ step.saved 1  +500 ms  final=True",
    ]


def test_a_step_is_its_groups_and_what_the_learner_made_of_them() -> None:
    found = selected(RUN, {"step": "1", "scope": None, "of": None, "group": None})

    assert [event.sequence for event in found] == [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]
    assert selected(RUN, {"step": "2", "scope": None, "of": None, "group": None}) == []


def test_a_trace_is_nested_json_on_a_pipe(
    fake_stack: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for event in RUN:
        fake_stack.events.append(
            RecordedEvent(
                sequence=event.sequence, time=event.time, subject=event.subject, caused_by=event.caused_by,
                event=event.event, body={"org": "local", "run_id": "r1", **event.body},
            )
        )  # fmt: skip

    assert main(["trace", "r1", "train-1-0"]) == 0
    [root] = json.loads(capsys.readouterr().out)
    assert root["children"][0]["children"][0]["children"][0]["event"] == "group.scored.v1"
    assert main(["trace", "r1", "train-9-0"]) == 1
    assert "error: r1 has no train-9-0 yet" in capsys.readouterr().err
    assert main(["trace", "r1", "third"]) == 1
    assert "'third' is neither a step nor a group" in capsys.readouterr().err
