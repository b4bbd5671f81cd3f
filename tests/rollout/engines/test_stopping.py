"""Stop strings, and what of a text may be shown."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.rollout.engines.stopping import first_stop, has_stopped, showable


def of_bytes(ids: Sequence[int]) -> str:
    """A token a byte; 256 is special and gives no text."""
    return bytes(id for id in ids if id < 256).decode(errors="replace")


@pytest.mark.parametrize(
    ("text", "stop", "at"), [("a.b;c", (";", "."), 1), ("abc", (".",), None), ("abc", (), None), ("END", ("END",), 0)]
)
def test_the_earliest_stop_string_counts(text: str, stop: tuple[str, ...], at: int | None) -> None:
    assert first_stop(text, stop) == at


def test_a_stop_string_is_seen_whatever_tokens_it_is_cut_into() -> None:
    ids = [*b"long before ", *"€nd".encode()]

    assert not has_stopped(ids[:-1], ("€nd",), of_bytes)
    assert has_stopped(ids, ("€nd",), of_bytes)
    assert has_stopped([*ids[:-1], 256, 256, ids[-1]], ("€nd",), of_bytes)


@pytest.mark.parametrize(
    ("text", "shown"),
    [("The answer", "The answer"), ("The answer\nQ", "The answer"), ("The\nQx", "The\nQx"), ("half \ufffd", "half ")],
)
def test_nothing_is_shown_that_may_yet_become_a_stop_string_or_a_character(text: str, shown: str) -> None:
    assert showable(text, ("\nQ:", "###")) == shown


@given(st.text(alphabet="ab.", max_size=30), st.lists(st.text(alphabet="ab.", min_size=1, max_size=4), max_size=3))
def test_what_is_shown_while_streaming_is_always_a_start_of_what_comes_out(text: str, stop: list[str]) -> None:
    end = first_stop(text, stop)
    whole = text[:end]
    seen_until = len(text) if end is None else end + max(map(len, stop))

    for length in range(min(len(text), seen_until)):
        if first_stop(text[:length], stop) is None:
            assert whole.startswith(showable(text[:length], stop))
