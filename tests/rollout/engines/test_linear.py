"""Products with packed weights."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - as everybody calls it

from services.rollout.engines.linear import PACKED_NUMEL, Linear


@pytest.mark.parametrize("rows", [1, 7, 64, 300])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("width", [64, PACKED_NUMEL // 128 + 16])  # too small to be packed, and large enough
def test_a_product_is_that_of_torch_for_any_number_of_rows(rows: int, biased: bool, width: int) -> None:
    torch.manual_seed(0)
    weight, x = torch.randn(128, width) / width**0.5, torch.randn(rows, 2 * width)[:, width:]
    bias = torch.randn(128) if biased else None

    y = Linear(weight, bias)(x)

    torch.testing.assert_close(y, F.linear(x, weight, bias), rtol=1e-5, atol=1e-5)
