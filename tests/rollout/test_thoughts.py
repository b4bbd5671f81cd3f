"""services/rollout/thoughts.py: tokens of thoughts, counted by hand. `<` opens, `>` closes, `.` ends the turn."""

import pytest

from envsdk.thinking import split_thinking
from services.rollout.thoughts import thinking_tokens

MARKS = ((ord("<"),), (ord(">"),))


@pytest.mark.parametrize(
    ("turn", "opened", "tokens"),
    [
        ("<abc>de.", False, 3),
        ("abc>de.", True, 3),
        ("abc>de.", False, 3),
        ("ab<c>de.", False, 1),
        ("<ab>c<d>e.", False, 3),
        ("<a<b>c.", False, 2),
        ("abcde.", False, 0),
        ("abcde.", True, 5),
        ("ab<cd.", False, 2),
        ("<ab>c>d.", False, 2),
        ("<>.", False, 0),
        (".", True, 0),
    ],
)
def test_the_tokens_of_the_spans_are_counted(turn: str, opened: bool, tokens: int) -> None:
    ids = [ord(letter) for letter in turn]

    assert thinking_tokens(ids, MARKS, opened=opened, closed=True) == tokens
    text = turn.removesuffix(".").translate({ord("<"): "<think>", ord(">"): "</think>"})
    said = split_thinking(text, prompt_opened=opened).thinking or ""
    assert len(said.replace("\n", "")) == tokens


def test_a_turn_that_was_cut_thinks_up_to_its_last_token() -> None:
    assert thinking_tokens([9, ord("<"), 1, 2], MARKS, opened=False, closed=False) == 2


def test_marks_of_several_tokens_are_no_thoughts_themselves() -> None:
    assert thinking_tokens([7, 8, 1, 2, 3, 7, 9, 4], ((7, 8), (7, 9)), opened=False, closed=True) == 3


def test_a_model_without_marks_thinks_only_what_its_prompt_opened() -> None:
    assert thinking_tokens([1, 2, 3], ((), ()), opened=False, closed=True) == 0
    assert thinking_tokens([1, 2, 3], ((), ()), opened=True, closed=True) == 2
