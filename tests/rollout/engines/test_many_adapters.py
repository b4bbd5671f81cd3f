"""Many runs on one engine: every answer comes from the adapter that was asked."""

import asyncio
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file, save

from services.rollout.engines import Adapter, Sample, SampleRequest
from tests.rollout.engines.conftest import LETTERS, TARGETS, VLLM

RUNS = [(4, TARGETS), (8, TARGETS), (2, ["q_proj", "v_proj"]), (4, ["gate_proj", "up_proj", "down_proj"])]
"""Their ranks, and which layers they train."""
VERSIONS = 8
"""Of each run's policy."""


class Run:
    """A run's policy, as PEFT has it."""

    def __init__(self, plain: Any, rank: int, targets: list[str], folder: Path) -> None:
        self._model = get_peft_model(plain, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=targets)).eval()
        self.adapters = [self._version(number, folder / f"v{number}") for number in range(VERSIONS)]
        self._loaded = VERSIONS - 1

    @torch.inference_mode()
    def gap(self, request: SampleRequest, sample: Sample, version: int) -> float:
        """The largest difference, in nats, between a sample's log-probabilities and those of a version."""
        if version != self._loaded:
            weights = load_file(self.adapters[version].folder / "adapter_model.safetensors")
            set_peft_model_state_dict(self._model, weights)
            self._loaded = version
        ids = torch.tensor([[*request.prompt_ids, *sample.token_ids]])
        said = self._model(input_ids=ids, use_cache=False).logits[0, len(request.prompt_ids) - 1 : -1].log_softmax(-1)
        theirs = said.gather(1, torch.tensor(sample.token_ids)[:, None])[:, 0]
        return float((theirs - torch.tensor(sample.logprobs)).abs().max())

    def _version(self, number: int, folder: Path) -> Adapter:
        torch.manual_seed(number)
        for name, weight in self._model.named_parameters():
            if "lora_" in name:
                torch.nn.init.normal_(weight, std=0.2)
        self._model.peft_config["default"].save_pretrained(folder)
        weights = save(get_peft_model_state_dict(self._model, save_embedding_layers=False))
        (folder / "adapter_model.safetensors").write_bytes(weights)
        return Adapter(hashlib.sha256(weights).hexdigest(), folder)


@pytest.mark.parametrize("model", ["qwen3", "qwen3-modules", pytest.param("qwen3-vllm", marks=VLLM)], indirect=True)
async def test_32_adapters_of_4_runs_are_sampled_at_once_and_none_is_taken_for_another(
    model: Any, ask: Callable[..., SampleRequest], tmp_path: Path
) -> None:
    engine = await model.engine(closing=-1)
    runs = [Run(model.plain(), *run, tmp_path / f"run-{number}") for number, run in enumerate(RUNS)]
    asked = [(n % len(RUNS), n // len(RUNS) % VERSIONS) for n in range(2 * len(RUNS) * VERSIONS)]
    requests = [  # a prompt is continued by several adapters
        ask(f"{LETTERS[n % 5]}bc", seeds=2, max_tokens=4 + n % 3, adapter=runs[run].adapters[version])
        for n, (run, version) in enumerate(asked)
    ]

    answers = await asyncio.gather(*map(engine.sample, requests))

    answered = sorted(zip(asked, range(len(asked)), strict=True))
    for (run, version), n in answered:
        assert max(runs[run].gap(requests[n], sample, version) for sample in answers[n]) < 1e-4
    for (run, version), n in answered[::3]:
        assert runs[run].gap(requests[n], answers[n][0], (version + 1) % VERSIONS) > 1e-2
        assert runs[(run + 1) % len(RUNS)].gap(requests[n], answers[n][0], version) > 1e-2
