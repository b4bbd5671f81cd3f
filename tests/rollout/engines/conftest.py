"""Small random models of each architecture, with adapters, and what transformers and PEFT say of them."""

import hashlib
import os
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from services.rollout.engines import Adapter, Sample, SampleRequest
from services.rollout.engines.torch import Loaded, TorchEngine

CLOSING = 0
LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ .,:;"
VOCABULARY = 1 + len(LETTERS)
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
SMALL = {
    "vocab_size": VOCABULARY,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.2,
    "eos_token_id": CLOSING,
    "bos_token_id": None,
    "pad_token_id": CLOSING,
    "tie_word_embeddings": True,
}
MODELS: dict[str, tuple[dict[str, Any], bool]] = {
    "qwen3": ({"model_type": "qwen3", "head_dim": 16}, True),
    "llama": (
        {
            "model_type": "llama",
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 10_000.0,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 32,
            },
        },
        True,
    ),
    "qwen2": ({"model_type": "qwen2", "tie_word_embeddings": False}, True),
    "qwen3-modules": ({"model_type": "qwen3", "head_dim": 16}, False),
}
"""Its config, and whether the engine may use its own arithmetic."""


@dataclass
class Model:
    """A random model, and the engines and oracles over it."""

    config: Any
    state: dict[str, Tensor]
    fused: bool
    folder: Path
    engines: list[TorchEngine]

    @staticmethod
    def decode(ids: Sequence[int]) -> str:
        return "".join(LETTERS[id - 1] for id in ids if id != CLOSING)

    def plain(self) -> Any:
        model = AutoModelForCausalLM.from_config(self.config, attn_implementation="sdpa")
        model.load_state_dict(self.state)
        return model.eval()

    async def engine(self, closing: int = CLOSING, **limits: Any) -> TorchEngine:
        engine = TorchEngine(
            lambda: Loaded(self.plain(), self.decode, frozenset([closing])), **{"fused": self.fused, **limits}
        )
        await engine.start()
        self.engines.append(engine)
        return engine

    def adapter(self, seed: int, rank: int = 4, targets: list[str] = TARGETS, size: float = 0.2) -> Adapter:
        """An adapter as the learner writes it, far enough from zero to change every probability."""
        torch.manual_seed(seed)
        peft = get_peft_model(self.plain(), LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=targets))
        for name, weight in peft.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weight, std=size)
        folder = self.folder / f"adapter-{seed}-{rank}-{len(targets)}-{size}"
        peft.save_pretrained(folder)
        return Adapter(hashlib.sha256((folder / "adapter_model.safetensors").read_bytes()).hexdigest(), folder)

    def logits(self, request: SampleRequest, ids: list[int], adapter: Adapter | None) -> Tensor:
        """[T, V] what transformers says before each of these tokens, the adapter (PEFT) unmerged."""
        model = self.plain()
        if adapter:
            model = PeftModel.from_pretrained(model, adapter.folder)
        with torch.no_grad():
            logits: Tensor = model(input_ids=torch.tensor([[*request.prompt_ids, *ids]]), use_cache=False).logits
        return logits[0, len(request.prompt_ids) - 1 : -1]

    def gap(self, request: SampleRequest, samples: list[Sample]) -> float:
        """The largest difference between the sampler's log-probabilities and those of transformers, in nats."""
        return max(self._gap(request, sample) for sample in samples)

    def _gap(self, request: SampleRequest, sample: Sample) -> float:
        logits = self.logits(request, sample.token_ids, request.adapter) / (request.temperature or 1.0)
        theirs = logits.log_softmax(-1).gather(1, torch.tensor(sample.token_ids)[:, None])[:, 0]
        return float((theirs - torch.tensor(sample.logprobs)).abs().max())


@pytest.fixture(params=MODELS)
async def model(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Model]:
    config, fused = MODELS[request.param]
    torch.manual_seed(7)
    settings = AutoConfig.for_model(**{**SMALL, **config})
    plain = AutoModelForCausalLM.from_config(settings, attn_implementation="sdpa")
    for name, weight in plain.named_parameters():  # biases and norms that do something
        if name.endswith("bias") or "norm" in name:
            torch.nn.init.normal_(weight, mean=0.0 if name.endswith("bias") else 1.0, std=0.2)
    made = Model(settings, plain.state_dict(), fused, tmp_path, [])
    yield made
    for engine in made.engines:
        await engine.close()


Ask = Callable[..., SampleRequest]


@pytest.fixture
def ask() -> Ask:
    """A request, with what a test does not care about filled in."""

    def asked(prompt: str = "abc", seeds: int | tuple[int, ...] = 3, **other: Any) -> SampleRequest:
        request = SampleRequest(
            prompt_ids=tuple(1 + LETTERS.index(letter) for letter in prompt),
            seeds=tuple(range(seeds)) if isinstance(seeds, int) else seeds,
            temperature=1.0,
            max_tokens=12,
        )
        return replace(request, **other)

    return asked
