"""Thought and answer."""

import copy
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from envsdk.thinking import split_thinking

PIECES = st.lists(st.sampled_from(["<think>", "</think>", "a", " ", "\n"]), max_size=8).map("".join)


@pytest.mark.parametrize(
    ("raw", "opened", "answer", "thinking"),
    [
        ("<think>why</think>4", False, "4", "why"),
        ("why</think>4", True, "4", "why"),
        ("<think>a</think>b<think>c</think>d", False, "d", "a\nc"),
        ("a</think>b<think>c</think>d", True, "d", "a\nc"),
        ("cut off", True, "", "cut off"),
        ("before<think>cut off", False, "before", "cut off"),
        ("plain", False, "plain", None),
        ("", False, "", None),
    ],
)
def test_the_answer_is_what_follows_the_last_thought(raw: str, opened: bool, answer: str, thinking: str | None) -> None:
    found = split_thinking(raw, prompt_opened=opened)

    assert found == found.completion == answer
    assert found.thinking == thinking
    assert found.raw == raw


@given(PIECES, st.booleans())
def test_splitting_is_a_pure_function_that_loses_no_answer(raw: str, opened: bool) -> None:
    found = split_thinking(raw, prompt_opened=opened)

    assert found == split_thinking(raw, prompt_opened=opened)
    assert "</think>" not in found
    assert raw.endswith(found) or raw.startswith(found)


def test_an_answer_survives_a_copy() -> None:
    found = split_thinking("<think>a</think>b")

    for twin in (copy.deepcopy(found), pickle.loads(pickle.dumps(found))):
        assert (twin, twin.thinking, twin.raw) == ("b", "a", "<think>a</think>b")
