"""Which adapters vLLM holds, each under a name and a number of its own, and what it must not be asked to load.

It finds prompts again by an adapter's name, so that one name, the digest, never stands for two sets of weights. An
adapter that it fails to load while it draws would take the engine with it, so each is loaded before, and none in use
leaves.
"""

from collections import OrderedDict
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch import nn

from services.rollout.engines import Adapter, GenerationFailed
from services.rollout.engines.lora import check_fits, read_lora

FIRST_ID = 1_000
"""vLLM takes the first few for itself while it warms up."""


@dataclass
class _Place:
    request: Any
    users: int = 0


class Held:
    """The adapters in vLLM's memory, the least recently used first."""

    def __init__(self, folder: Path, capacity: int) -> None:
        """`folder` has the base model."""
        self._base = Base(folder)
        self._capacity = capacity
        self._places: OrderedDict[str, _Place] = OrderedDict()
        self._ids = count(FIRST_ID)

    def knows(self, adapter: Adapter) -> bool:
        return adapter.digest in self._places

    def has_room(self) -> bool:
        """Could another one come in, if need be for one that nobody uses?"""
        return len(self._places) < self._capacity or any(not place.users for place in self._places.values())

    def surplus(self) -> Any | None:
        """What has to leave before another one comes in: it is forgotten here."""
        if len(self._places) < self._capacity:
            return None
        digest = next(digest for digest, place in self._places.items() if not place.users)
        return self._places.pop(digest).request

    def check(self, adapter: Adapter) -> None:
        """Raises GenerationFailed for an adapter that vLLM should not be asked to load."""
        self._base.check(adapter)

    def introduce(self, adapter: Adapter) -> Any:
        """vLLM's request for an adapter that it is to load."""
        from vllm.lora.request import LoRARequest

        request = LoRARequest(adapter.digest, next(self._ids), str(adapter.folder))
        self._places[adapter.digest] = _Place(request)
        return request

    def forget(self, adapter: Adapter) -> None:
        self._places.pop(adapter.digest, None)

    def borrow(self, adapter: Adapter) -> Any:
        """vLLM's request for an adapter that it has; it stays until it is given back."""
        place = self._places[adapter.digest]
        place.users += 1
        self._places.move_to_end(adapter.digest)
        return place.request

    def give_back(self, adapter: Adapter) -> None:
        self._places[adapter.digest].users -= 1


class Base:
    """What an adapter must fit."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def check(self, adapter: Adapter) -> None:
        """Raises GenerationFailed for an adapter that is not plain LoRA on linear layers of this model."""
        for name, pair in read_lora(adapter, torch.device("cpu"), torch.float32).items():
            try:
                linear = self._model.get_submodule(name)
            except AttributeError:
                linear = None
            if not isinstance(linear, nn.Linear):
                raise GenerationFailed(f"adapter {adapter.digest[:12]} changes {name}, which is no linear layer here")
            check_fits(name, pair, linear.weight)

    @cached_property
    def _model(self) -> Any:
        """Its layers, without weights."""
        from transformers import AutoConfig, AutoModelForCausalLM

        config = AutoConfig.from_pretrained(self._folder, local_files_only=True)
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
