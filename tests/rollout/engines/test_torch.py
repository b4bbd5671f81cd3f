"""What is the torch engine's own."""

from typing import Any

import pytest

from services.rollout.engines.torch import TorchEngine


async def test_a_model_that_cannot_be_loaded_says_so_at_start() -> None:
    def fails() -> Any:
        raise OSError("no such folder")

    with pytest.raises(OSError, match="no such folder"):
        await TorchEngine(fails).start()
