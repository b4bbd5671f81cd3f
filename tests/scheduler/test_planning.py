"""Steps, and the rows they play."""

from types import SimpleNamespace

from hypothesis import given
from hypothesis import strategies as st

from flash.contracts.keys import DATASET_CHUNK
from flash.contracts.plan import Plan
from services.scheduler.planning import chunks_in_order, chunks_needed, rows_of_step

SIZES = st.integers(1, 60).flatmap(lambda rows: st.tuples(st.just(rows), st.integers(1, rows)))


@given(SIZES, st.integers(0, 5), st.integers(1, 40))
def test_no_row_is_played_twice_in_a_step(sizes: tuple[int, int], seed: int, step: int) -> None:
    rows, prompts = sizes

    played = rows_of_step(Plan(rows, prompts, 40), seed, step)

    assert len(set(played)) == prompts
    assert all(0 <= row < rows for row in played)


def test_chunks_are_asked_for_in_the_order_in_which_steps_play_their_rows() -> None:
    plan, spec = Plan(10 * DATASET_CHUNK, 2, 40), SimpleNamespace(algorithm="grpo", seed=3)

    chunks = chunks_in_order(spec, plan)  # type: ignore[arg-type]

    played = [row // DATASET_CHUNK for step in range(1, 41) for row in rows_of_step(plan, 3, step)]
    assert list(chunks) == list(dict.fromkeys(played))
    assert len(chunks_in_order(spec, Plan(10 * DATASET_CHUNK, 2, 1))) <= 2  # type: ignore[arg-type]
    assert list(chunks_in_order(SimpleNamespace(algorithm="sft"), plan)) == list(range(10))  # type: ignore[arg-type]


@given(SIZES, st.integers(0, 5))
def test_an_epoch_plays_every_row_at_most_once(sizes: tuple[int, int], seed: int) -> None:
    rows, prompts = sizes
    per_epoch = rows // prompts

    played = [row for step in range(1, per_epoch + 1) for row in rows_of_step(Plan(rows, prompts, 40), seed, step)]

    assert len(set(played)) == len(played) == per_epoch * prompts


def test_the_rows_of_a_step_depend_on_seed_and_step_alone() -> None:
    plan = Plan(rows=100, prompts_per_step=8, steps=40)

    assert rows_of_step(plan, 7, 3) == rows_of_step(plan, 7, 3)
    assert rows_of_step(plan, 7, 3) != rows_of_step(plan, 8, 3)
    assert rows_of_step(plan, 7, 3) != rows_of_step(plan, 7, 4)


def test_chunks_hold_1024_rows() -> None:
    assert list(chunks_needed(1)) == [0]
    assert list(chunks_needed(1_024)) == [0]
    assert list(chunks_needed(1_025)) == [0, 1]
