"""Which engine draws, on machines of all kinds."""

import re
from importlib.machinery import ModuleSpec
from typing import Any

import pytest

from flash.errors import ConfigError
from flash.models import engines
from flash.models.engines import chosen


@pytest.fixture(params=[False, True], ids=["bare", "vllm"])
def installed(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    there: bool = request.param
    monkeypatch.setattr(engines, "find_spec", lambda name: ModuleSpec(name, None) if there else None)
    return there


@pytest.mark.parametrize("device", ["cpu", "cuda", "cuda:1"])
def test_vllm_is_taken_on_a_gpu_where_it_is_installed(installed: bool, device: str) -> None:
    choice = chosen("auto", device)

    assert choice.name == ("vllm" if installed and device != "cpu" else "torch")
    assert choice.why


def test_who_asks_for_an_engine_gets_it_or_hears_how(installed: bool) -> None:
    assert chosen("torch", "cuda").name == "torch"
    if installed:
        assert chosen("vllm", "cpu").name == "vllm"
    else:
        with pytest.raises(ConfigError, match=re.escape("pip install 'flash-rl[vllm]'")):
            chosen("vllm", "cpu")


def test_an_engine_that_there_is_not_is_refused(installed: Any) -> None:
    with pytest.raises(ConfigError, match="auto, torch or vllm"):
        chosen("tensorrt", "auto")
