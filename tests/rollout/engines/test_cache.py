"""Slots of the cache."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from services.rollout.engines.cache import CHUNK, SlotCache, arrangement, padded


def test_positions_come_in_whole_chunks() -> None:
    assert [padded(n) for n in (1, CHUNK, CHUNK + 1)] == [CHUNK, CHUNK, 2 * CHUNK]


def test_who_leaves_is_replaced_from_behind_and_nobody_else_moves() -> None:
    assert arrangement([0, 2, 3, 5], ["a"] * 4) == [0, 5, 2, 3]


@given(st.lists(st.tuples(st.booleans(), st.sampled_from("abc")), max_size=20))
def test_rows_of_one_kind_stand_together_and_none_is_lost(rows: list[tuple[bool, str]]) -> None:
    slots = [slot for slot, (stays, _) in enumerate(rows) if stays]
    kinds = [rows[slot][1] for slot in slots]

    order = arrangement(slots, kinds)

    assert sorted(order) == slots
    found = [rows[slot][1] for slot in order]
    assert len([i for i in range(1, len(found)) if found[i] != found[i - 1]]) == max(0, len(set(found)) - 1)


def test_what_lies_in_a_slot_moves_with_it_and_survives_growth() -> None:
    cache = SlotCache(2, 1, 1, torch.device("cpu"), torch.float32)
    cache.fit(3, 2)
    for layer in cache.layers:
        layer[:, :, :, :] = torch.arange(3.0)[None, :, None, None, None]

    cache.arrange([2, 1, 0], 2)
    cache.fit(4, 5)

    for layer in cache.layers:
        assert layer[0, :, 0, :, 0].tolist() == [[2, 2, 0, 0, 0], [1, 1, 0, 0, 0], [0] * 5, [0] * 5]


def test_what_is_wiped_is_gone_and_the_rest_stays() -> None:
    cache = SlotCache(1, 1, 1, torch.device("cpu"), torch.float32)
    cache.fit(2, 2)
    cache.layers[0][:] = torch.nan
    cache.layers[0][:, 0, :, 0] = 1.0

    cache.wipe(1, 1)

    assert cache.layers[0][0, :, 0, :, 0].tolist() == [[1.0, 0.0], [0.0, 0.0]]
