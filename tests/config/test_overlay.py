"""Laying configs over one another: flash/config/overlay.py."""

from typing import Any

import pytest

from flash.config.overlay import compose, merged, parsed, settings
from flash.errors import ConfigError

KNOBS = {"sft": ("epochs", "lora_rank"), "grpo": ("steps", "group_size", "lora_rank")}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("true", True),
        ("false", False),
        ("300", 300),
        ("-3", -3),
        ("1_000", 1000),
        ("2e-4", 2e-4),
        ("0.5", 0.5),
        ("[]", []),
        ("[1, 0.5, x]", [1, 0.5, "x"]),
        ("tiny", "tiny"),
        ('"300"', "300"),
        ("nan", "nan"),
        ("Qwen/Qwen3-0.6B", "Qwen/Qwen3-0.6B"),
    ],
)
def test_a_value_on_the_command_line_is_a_truth_a_number_a_list_or_else_text(text: str, value: Any) -> None:
    found = parsed(text)

    assert found == value
    assert type(found) is type(value)


def test_later_assignments_win_and_dots_open_tables() -> None:
    assert settings(["train.steps=3", "train.lora_rank=8", "seed=1", "train.steps=4"]) == {
        "train": {"steps": 4, "lora_rank": 8},
        "seed": 1,
    }


def test_a_value_may_hold_an_equals_sign() -> None:
    assert settings(["note=a=b"]) == {"note": "a=b"}


@pytest.mark.parametrize("text", ["foo", "=3", "train.=3", ".steps=3"])
def test_what_is_no_assignment_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"--set must be key=value, for example train.steps=300, but got"):
        settings([text])


def test_a_path_cannot_go_through_a_value() -> None:
    with pytest.raises(ConfigError, match=r"--set path 'model.x' goes through 'model', which is a value and no table"):
        settings(["model=tiny", "model.x=3"])


def test_tables_merge_deeply_and_lists_are_replaced() -> None:
    below = {"environment": {"params": {"a": 1, "b": [1, 2]}, "id": "x"}}

    assert merged(below, {"environment": {"params": {"b": [3]}}}) == {
        "environment": {"params": {"a": 1, "b": [3]}, "id": "x"}
    }
    assert below["environment"]["params"]["b"] == [1, 2]


def test_the_last_layer_wins() -> None:
    values, notes = compose([{"seed": 1, "name": "a"}, {"seed": 2}, {"seed": 3}], KNOBS)

    assert values == {"seed": 3, "name": "a"}
    assert notes == []


def test_a_switch_of_algorithm_drops_what_only_the_old_one_knows_and_says_so() -> None:
    base = {"train": {"epochs": 3, "lora_rank": 8}}

    values, notes = compose([base, {"algorithm": "grpo", "train": {"steps": 5}}], KNOBS)

    assert values == {"algorithm": "grpo", "train": {"lora_rank": 8, "steps": 5}}
    assert notes == ["algorithm is now grpo: dropped train.epochs, which only sft knows"]


def test_what_the_switching_layer_brings_itself_is_left_to_be_rejected() -> None:
    values, notes = compose([{"algorithm": "grpo"}, {"algorithm": "sft", "train": {"steps": 5}}], KNOBS)

    assert values["train"] == {"steps": 5}
    assert notes == []


def test_a_base_file_keeps_the_foreign_knobs_it_wrote_itself() -> None:
    values, notes = compose([{"algorithm": "sft", "train": {"steps": 5}}], KNOBS)

    assert values["train"] == {"steps": 5}
    assert notes == []
