"""Small random models of each architecture, with adapters, and what transformers and PEFT say of them.

Both engines draw with them; vLLM where it is installed, which is in a venv of its own (`make vllm`).
"""

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
import tokenizers
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tokenizers.decoders import Fuse
from tokenizers.models import WordLevel
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from services.rollout.engines import Adapter, Engine, Sample, SampleRequest
from services.rollout.engines.torch import Loaded, TorchEngine

CLOSING = 0
LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ .,:;"
VOCABULARY = 1 + len(LETTERS)
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
SMALL = {
    "vocab_size": VOCABULARY,
    "hidden_size": 128,
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
    "qwen3": ({"model_type": "qwen3", "head_dim": 32}, True),
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
    "qwen3-modules": ({"model_type": "qwen3", "head_dim": 32}, False),
}
"""Its config, and whether the torch engine may use its own arithmetic."""

VLLM = pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is in a venv of its own: make vllm")
SUBJECTS = [*MODELS, pytest.param("qwen3-vllm", marks=VLLM)]


@dataclass
class Model:
    """A random model, and the engines and oracles over it."""

    config: Any
    state: dict[str, Tensor]
    folder: Path
    fused: bool = True
    shared: dict[str, Engine] | None = None
    """Engines of vLLM, which take long to start: tests share them. None: it is the torch engine's turn."""
    engines: list[Engine] = field(default_factory=list)

    @staticmethod
    def decode(ids: Sequence[int]) -> str:
        return "".join(LETTERS[id - 1] for id in ids if id != CLOSING)

    def plain(self) -> Any:
        model = AutoModelForCausalLM.from_config(self.config, attn_implementation="sdpa")
        model.load_state_dict(self.state)
        return model.eval()

    async def engine(self, closing: int = CLOSING, **limits: Any) -> Engine:
        if self.shared is not None:
            return await self._of_vllm(self.shared, closing, limits)
        engine = TorchEngine(
            lambda: Loaded(self.plain(), self.decode, frozenset([closing])), **{"fused": self.fused, **limits}
        )
        await engine.start()
        self.engines.append(engine)
        return engine

    def saved(self) -> Path:
        """A folder with the model, as transformers and vLLM load it."""
        place = self.folder / "model"
        if not place.exists():
            self.plain().save_pretrained(place)
            tokenizer().save_pretrained(place)
        return place

    async def _of_vllm(self, shared: dict[str, Engine], closing: int, limits: dict[str, Any]) -> Engine:
        from services.rollout.engines.vllm import Options, VllmEngine

        name = f"{self.config.model_type} {closing} {limits}"
        if name not in shared:
            place = self.saved()
            closing_ids = frozenset([closing] if closing >= 0 else [])
            options = Options(place, self.decode, closing_ids, **{"cache_bytes": 16 << 20, **limits})
            shared[name] = VllmEngine(options)
            await shared[name].start()
        return shared[name]

    def adapter(self, seed: int, rank: int = 4, targets: list[str] = TARGETS, size: float = 0.2) -> Adapter:
        """An adapter as the learner writes it, far enough from zero to change every probability."""
        torch.manual_seed(seed)
        peft = get_peft_model(self.plain(), LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=targets))
        for name, weight in peft.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weight, std=size)
        folder = self.folder / f"adapter-{seed}-{rank}-{len(targets)}-{size}"
        peft.save_pretrained(folder, save_embedding_layers=False)
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


def tokenizer() -> Any:
    """A letter a token."""
    words = tokenizers.Tokenizer(WordLevel({"<end>": CLOSING} | {letter: 1 + i for i, letter in enumerate(LETTERS)}))
    words.decoder = Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<end>")


@pytest.fixture(scope="session")
def engines_of_vllm() -> Iterator[dict[str, Engine]]:
    shared: dict[str, Engine] = {}
    with pytest.MonkeyPatch.context() as patch:
        if find_spec("vllm"):
            _keep_all(patch)
        yield shared
        for engine in shared.values():
            asyncio.run(engine.close())


def _keep_all(patch: pytest.MonkeyPatch) -> None:
    """The first of vLLM's engines that goes takes along what all of a process share: here none goes before the last."""
    from vllm import LLMEngine

    kept, made = [], LLMEngine.from_engine_args

    def keeping(*args: Any, **options: Any) -> Any:
        kept.append(made(*args, **options))
        return kept[-1]

    patch.setattr(LLMEngine, "from_engine_args", keeping)


@pytest.fixture(params=SUBJECTS)
async def model(
    request: pytest.FixtureRequest, tmp_path: Path, engines_of_vllm: dict[str, Engine]
) -> AsyncIterator[Model]:
    made = made_of(request.param, tmp_path, engines_of_vllm)
    yield made
    for engine in made.engines:
        await engine.close()


def made_of(subject: str, folder: Path, engines_of_vllm: dict[str, Engine]) -> Model:
    """A random model, always the same; of `NAME-vllm` vLLM is the engine."""
    name = subject.removesuffix("-vllm")
    config, fused = MODELS[name]
    torch.manual_seed(7)
    settings = AutoConfig.for_model(**{**SMALL, **config})
    plain = AutoModelForCausalLM.from_config(settings, attn_implementation="sdpa")
    for name, weight in plain.named_parameters():  # biases and norms that do something
        if name.endswith("bias") or "norm" in name:
            torch.nn.init.normal_(weight, mean=0.0 if name.endswith("bias") else 1.0, std=0.2)
    return Model(settings, plain.state_dict(), folder, fused, engines_of_vllm if subject.endswith("-vllm") else None)


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
