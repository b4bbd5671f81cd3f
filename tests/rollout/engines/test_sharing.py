"""Rows and the prompts that they share."""

import torch

from services.rollout.engines import SampleRequest
from services.rollout.engines.rows import Job, Row
from services.rollout.engines.sharing import Sharing


def rows(*prompts: tuple[int, ...]) -> list[Row]:
    return [Row(Job(SampleRequest(prompt, (0,), 1.0, 9), 9, print), 0, []) for prompt in prompts]


def test_rows_with_the_same_prompt_share_its_slot_whoever_asked() -> None:
    sharing = Sharing(2, torch.device("cpu"))
    there = rows((1, 2), (3,), (1, 2))

    assert [sharing.take_in(row) for row in there] == [0, 1, 0]
    assert list(sharing.lengths.values()) == [2, 1]


def test_a_prompt_that_nobody_continues_is_replaced_from_behind() -> None:
    sharing = Sharing(2, torch.device("cpu"))
    there = rows((1,), (2, 2), (3, 3, 3), (3, 3, 3))
    for row in there:
        sharing.take_in(row)

    order = sharing.keep(there[1:])

    assert order == [2, 1]
    assert list(sharing.lengths.values()) == [3, 2]


def test_what_goes_to_the_prompts_comes_back_to_its_rows() -> None:
    sharing = Sharing(2, torch.device("cpu"))
    there = rows((1,), (2,), (2,), (1,), (2,))
    for row in there:
        sharing.take_in(row)
    sharing.keep(there)
    x = torch.arange(5 * 2 * 3.0).view(10, 3, 1)  # 5 rows with 2 key heads of 3 queries

    asked = sharing.by_prompt(x)

    assert asked.shape == (4, 9, 1)  # 2 prompts with 2 heads, 3 rows of 3 queries each
    assert asked[1].flatten().tolist() == [3, 4, 5, 21, 22, 23, 3, 4, 5]  # head 1 of rows 0 and 3, and one too many
    assert torch.equal(sharing.by_row(asked), x)
