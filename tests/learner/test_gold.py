"""Which gold rows a step learns from, and at what rate."""

from hypothesis import given
from hypothesis import strategies as st

from services.learner.gold import epochs_after, rows_of_step, warmed_up


@given(st.integers(0, 99), st.integers(1, 50), st.integers(1, 20))
def test_an_epoch_shows_every_row_once(seed: int, rows: int, batch_size: int) -> None:
    steps = -(-rows // batch_size)

    for epoch in range(2):
        shown = [
            row
            for step in range(epoch * steps + 1, (epoch + 1) * steps + 1)
            for row in rows_of_step(step, seed=seed, rows=rows, batch_size=batch_size)
        ]
        assert sorted(shown) == list(range(rows))


def test_epochs_and_seeds_shuffle_differently_and_always_the_same_way() -> None:
    def epoch(seed: int, step: int) -> tuple[int, ...]:
        return rows_of_step(step, seed=seed, rows=20, batch_size=20)

    assert epoch(1, 1) == epoch(1, 1)
    assert epoch(1, 1) != epoch(1, 2)
    assert epoch(1, 1) != epoch(2, 1)


def test_the_last_batch_of_an_epoch_may_be_smaller() -> None:
    assert [len(rows_of_step(step, seed=0, rows=5, batch_size=2)) for step in range(1, 7)] == [2, 2, 1, 2, 2, 1]


def test_epochs_are_counted_in_rows() -> None:
    assert [epochs_after(step, rows=5, batch_size=2) for step in (1, 2, 3, 4)] == [0.4, 0.8, 1.0, 1.4]


def test_the_rate_rises_over_the_first_three_per_cent_of_the_steps() -> None:
    assert [warmed_up(1.0, step=step, steps=100) for step in (1, 2, 3, 4, 100)] == [1 / 3, 2 / 3, 1.0, 1.0, 1.0]
    assert warmed_up(1.0, step=1, steps=8) == 1.0
