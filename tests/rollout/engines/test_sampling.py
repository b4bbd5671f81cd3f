"""Drawing tokens."""

import math

import pytest
import torch

from services.rollout.engines.sampling import draw, uniforms


def test_numbers_depend_on_the_seed_alone_and_a_longer_list_begins_with_the_shorter() -> None:
    assert uniforms(7, 5) == uniforms(7, 50)[:5]
    assert uniforms(7, 5) != uniforms(8, 5)
    assert all(0 <= number < 1 for number in uniforms(2**64 - 1, 1_000))


@pytest.mark.parametrize(("uniform", "token"), [(0.0, 1), (0.24, 1), (0.26, 2), (0.99, 2), (1 - 2**-24, 2)])
def test_a_token_is_the_first_whose_cumulated_probability_exceeds_the_number(uniform: float, token: int) -> None:
    logits = torch.tensor([[0.0, 0.25, 0.75, 0.0]]).log()  # the first and the last are impossible

    ids, logprobs = draw(logits, [1.0], [uniform])

    assert ids == [token]
    assert logprobs == pytest.approx([math.log([0.25, 0.75][token - 1])])


def test_temperature_reshapes_the_distribution_and_its_logprobs() -> None:
    logits = torch.tensor([[0.0, math.log(3.0)]] * 3)  # 1 : 3, at temperature 1/2 it is 1 : 9

    ids, logprobs = draw(logits, [1.0, 0.5, 0.0], [0.2, 0.2, 0.0])

    assert ids == [0, 1, 1]
    assert logprobs == pytest.approx([math.log(1 / 4), math.log(9 / 10), math.log(3 / 4)])


def test_a_row_without_probabilities_gives_nan_and_leaves_the_others_alone() -> None:
    logits = torch.tensor([[math.nan, 0.0], [0.0, 0.0]])

    ids, logprobs = draw(logits, [1.0, 1.0], [0.5, 0.6])

    assert math.isnan(logprobs[0])
    assert (ids[1], logprobs[1]) == (1, pytest.approx(math.log(0.5)))
