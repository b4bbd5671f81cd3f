"""What is true of the pauses before what died is started again."""

from cli.stack.backoff import Backoff


def test_pauses_double_up_to_the_longest() -> None:
    backoff = Backoff(first_s=0.2, longest_s=10.0)

    assert [backoff.pause_s(deaths) for deaths in (1, 2, 3, 6, 7, 1_000)] == [0.2, 0.4, 0.8, 6.4, 10.0, 10.0]


def test_a_long_life_is_a_fresh_start() -> None:
    backoff = Backoff(steady_s=30.0)

    assert backoff.deaths(4, lived_s=29.9) == 5
    assert backoff.deaths(4, lived_s=30.0) == 1
