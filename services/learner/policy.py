"""Policies in training: LoRA adapters, one a run, on one base model. The only file that imports peft.

Everything that an update depends on is given to it or restored with it, so that the same tokens, in the same order, cut
the same way, on the same kind of CPU and number of threads, give the same adapter bit for bit. The model is never in
training mode (it has no dropout to switch on), and no random number is drawn after the start.
"""

import asyncio
import hashlib
import itertools
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import safetensors.torch
import structlog
import torch
from peft import LoraConfig, PeftModel, TaskType
from torch import Tensor

from services.learner.batch import Tree
from services.learner.capabilities import Capabilities, prove
from services.learner.failures import CannotTrain, RunOver
from services.learner.forward import logprobs
from services.learner.loss import Figures, Flat, Loss
from services.learner.rows import MicroBatch, micro_batches

R = TypeVar("R")

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
STATE = "state.safetensors"
BETAS = (0.9, 0.999)
MAX_GRAD_NORM = 1.0
NOT_PLAIN = ("use_dora", "modules_to_save", "lora_bias", "rank_pattern", "alpha_pattern", "layers_to_transform")
SMALLEST_CUT = 16
"""Tokens below which halving a micro-batch saves no memory worth having."""
LARGEST_CUT = 4_096
"""Tokens beyond which the 4-D mask itself becomes large."""

log = structlog.get_logger()


@dataclass(frozen=True)
class Cut:
    """How a step is cut and computed: what a replay must obey."""

    max_tokens: int
    """Of a micro-batch."""
    threads: int = 1

    def halved(self, times: int) -> "Cut":
        return Cut(max(SMALLEST_CUT, self.max_tokens >> times), self.threads)


@dataclass(frozen=True)
class Update:
    """What one optimiser step did."""

    metrics: dict[str, float]
    cut: Cut
    """As it was in the end: memory may have forced a smaller one than asked for."""


class Base:
    """A base model in memory, with the adapters of the runs that train on it."""

    def __init__(self, model: Any, name: str, *, shares_gpu: bool = False) -> None:
        self.name = name
        self._shares_gpu = shares_gpu
        self.model = model.eval().requires_grad_(False)
        self.capabilities: Capabilities = prove(self.model)
        self.turn = threading.Lock()
        """Held by whoever computes. A run that was taken away may still be in the middle of a pass."""
        # One thread for all arithmetic: glibc keeps what a thread has freed for that thread, so that passes in changing
        # threads would each hold on to a pass's memory.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="base")
        self._linear = _linear_layers(model)
        self._wrapped: PeftModel | None = None
        self._numbers = itertools.count(1)

    @classmethod
    def load(cls, folder: Path, name: str, device: str = "auto", *, shares_gpu: bool = False) -> "Base":
        from transformers import AutoModelForCausalLM

        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        model: Any = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="sdpa", local_files_only=True
        )
        return cls(model.to(device), name, shares_gpu=shares_gpu)

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Its turn, after which a GPU that is shared holds nothing that only passes through the model want."""
        with self.turn:
            try:
                yield
            finally:
                if self._shares_gpu:
                    torch.cuda.empty_cache()

    async def compute(self, work: Callable[..., R], *arguments: Any, **named: Any) -> R:
        """Run what blocks on the thread of this base."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, partial(work, *arguments, **named))

    def tokens_in(self, num_bytes: int) -> int:
        """About how many tokens can pass through the model, and back, in that much memory.

        A rule of thumb for float32 without checkpointing, measured on Llama and Qwen3 shapes: 16 vectors of the hidden
        and 6 of the intermediate size a layer, 4 of the vocabulary.
        """
        config = self.model.config.get_text_config()
        layer = 16 * config.hidden_size + 6 * getattr(config, "intermediate_size", 4 * config.hidden_size)
        token_bytes = 4 * (config.num_hidden_layers * layer + 4 * config.vocab_size)
        return max(SMALLEST_CUT, min(LARGEST_CUT, num_bytes // int(token_bytes)))

    def fresh(self, *, rank: int, alpha: int, seed: int) -> "Policy":
        """A policy that starts as the base itself: one factor of each pair is random, by the seed, the other zero."""
        config = LoraConfig(
            r=rank,
            lora_alpha=alpha,
            lora_dropout=0.0,
            target_modules=self._linear,
            task_type=TaskType.CAUSAL_LM,
            base_model_name_or_path=self.name,
        )
        return self._add(config, seed)

    def load_adapter(self, files: Mapping[str, bytes]) -> "Policy":
        """A policy that starts from an adapter in PEFT's format. Raises CannotTrain when it does not fit the base."""
        said: dict[str, Any] = msgspec.json.decode(files[CONFIG])
        if said.get("peft_type") != "LORA" or (special := [key for key in NOT_PLAIN if said.get(key)]):
            found = said.get("peft_type") if said.get("peft_type") != "LORA" else f"LoRA with {special[0]}"
            raise CannotTrain(f"the adapter to start from is {found}, but only plain LoRA adapters can be trained on")
        config = LoraConfig(
            r=said["r"],
            lora_alpha=said["lora_alpha"],
            lora_dropout=0.0,
            target_modules=said["target_modules"],
            use_rslora=said.get("use_rslora", False),
            task_type=TaskType.CAUSAL_LM,
            base_model_name_or_path=self.name,
        )
        policy = self._add(config, seed=0)
        try:
            policy.set_weights(files[WEIGHTS])
        except CannotTrain:
            policy.release()
            raise
        return policy

    def _add(self, config: LoraConfig, seed: int) -> "Policy":
        name = f"policy{next(self._numbers)}"
        with self.turn, torch.random.fork_rng():
            torch.manual_seed(seed)
            if self._wrapped is None:
                self._wrapped = PeftModel(self.model, config, adapter_name=name)
            else:
                self._wrapped.add_adapter(name, config)
        return Policy(self, self._wrapped, name, config)


class Policy:
    """One adapter with its optimiser. Nobody but its run touches it."""

    def __init__(self, base: Base, model: PeftModel, name: str, config: LoraConfig) -> None:
        self._base = base
        self._model = model
        self._name = name
        self._config = config
        # As PEFT names them in files: without the adapter's own name.
        weights = {
            key.replace(f".{name}.", "."): weight for key, weight in model.named_parameters() if f".{name}." in key
        }
        self._weights = dict(sorted(weights.items()))
        self._optimiser = torch.optim.AdamW(self._weights.values(), betas=BETAS, weight_decay=0.0, fused=True)

    @property
    def rank(self) -> int:
        return int(self._config.r)

    def update(
        self,
        trees: Sequence[Tree],
        loss: Loss,
        *,
        learning_rate: float,
        cut: Cut,
        wanted: Callable[[], bool] = lambda: True,
    ) -> Update:
        """One optimiser step over all the trees. Blocks.

        Where memory does not suffice, everything is done again in smaller pieces. Raises CannotTrain when the smallest
        are still too large and when the gradient is not finite, RunOver as soon as `wanted` says no.
        """
        with self._base.computing():
            while True:
                try:
                    return self._update(trees, loss, learning_rate, cut, wanted)
                except (MemoryError, RuntimeError) as error:
                    if not _is_out_of_memory(error):
                        raise
                    torch.cuda.empty_cache()
                    if cut.max_tokens // 2 < SMALLEST_CUT:
                        raise CannotTrain(
                            f"memory does not hold {cut.max_tokens} tokens of this model in training: "
                            "lower train.max_length or lora_rank, or use a machine with more"
                        ) from error
                    log.warning("memory.exhausted", max_tokens=cut.max_tokens)
                    cut = cut.halved(1)

    def files(self) -> dict[str, bytes]:
        """The adapter in PEFT's format: the same weights always give the same bytes."""
        weights = {key: weight.detach().contiguous().cpu() for key, weight in self._weights.items()}
        config: Any = self._config
        said = config.to_dict() | {"inference_mode": True}
        said = {key: sorted(value) if isinstance(value, set) else value for key, value in said.items()}
        return {
            CONFIG: msgspec.json.format(msgspec.json.encode(said, order="sorted", enc_hook=str), indent=2),
            WEIGHTS: safetensors.torch.save(weights, metadata={"format": "pt"}),
        }

    def state(self) -> bytes:
        """The optimiser's state: with the adapter and the number of the step, all that going on needs."""
        tensors: dict[str, Tensor] = {}
        for key, weight in self._weights.items():
            for name, value in self._optimiser.state.get(weight, {}).items():
                tensors[f"{name}/{key}"] = value.detach().contiguous().cpu()
        return safetensors.torch.save(tensors)

    def restore(self, files: Mapping[str, bytes]) -> None:
        """Become what was saved: bit for bit, optimiser included."""
        self.set_weights(files[WEIGHTS])
        self._optimiser.state.clear()
        for name, value in safetensors.torch.load(files[STATE]).items():
            kind, _, key = name.partition("/")
            weight = self._weights[key]
            self._optimiser.state[weight][kind] = value.to(weight.device)

    def set_weights(self, packed: bytes) -> None:
        """Raises CannotTrain when the adapter does not fit the base model."""
        given = safetensors.torch.load(packed)
        if wrong := given.keys() ^ self._weights.keys():
            raise CannotTrain(
                f"the adapter does not fit {self._base.name}: {sorted(wrong)[0]} is in only one of the two; "
                "an adapter goes on from the base model it was trained on"
            )
        with torch.no_grad():
            for key, weight in self._weights.items():
                if given[key].shape != weight.shape:
                    raise CannotTrain(
                        f"the adapter does not fit {self._base.name}: {key} is {list(given[key].shape)}, "
                        f"the model wants {list(weight.shape)}"
                    )
                weight.copy_(given[key])

    def release(self) -> None:
        """Give the memory back. Waits for a pass that is still going on."""
        with self._base.turn:
            self._optimiser.state.clear()
            lora: Any = self._model.base_model
            lora.set_adapter([])  # PEFT warns when it deletes the active one
            self._model.delete_adapter(self._name)

    def logprobs(self, batch: MicroBatch, *, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
        """[N] log-probabilities and [N] entropies of the answer tokens under this policy."""
        self._model.set_adapter(self._name)
        return self._forward(batch, temperature)

    def _update(
        self, trees: Sequence[Tree], loss: Loss, learning_rate: float, cut: Cut, wanted: Callable[[], bool]
    ) -> Update:
        began = time.perf_counter()
        # In the thread that computes: OpenMP keeps the number for each thread.
        torch.set_num_threads(cut.threads)
        self._model.set_adapter(self._name)
        self._optimiser.zero_grad()
        figures = Figures()
        for batch in micro_batches(trees, max_tokens=cut.max_tokens, share=self._base.capabilities.share):
            if not wanted():
                raise RunOver
            figures.add(self._learn(batch, loss))
        norm = float(torch.nn.utils.clip_grad_norm_(self._weights.values(), MAX_GRAD_NORM))
        if not norm - norm == 0.0:
            raise CannotTrain(
                f"the gradient is {norm} where a finite number was wanted, and would be again: "
                "lower train.learning_rate, or start from an earlier checkpoint"
            )
        for group in self._optimiser.param_groups:
            group["lr"] = learning_rate
        self._optimiser.step()
        self._optimiser.zero_grad()
        metrics = {"grad_norm": norm, "learning_rate": learning_rate, "tokens": float(figures.tokens)}
        return Update(metrics | figures.totals | figures.means() | {"update_s": time.perf_counter() - began}, cut)

    def _learn(self, batch: MicroBatch, loss: Loss) -> Figures:
        """Add the micro-batch's gradient. Nothing of it outlives the call: memory is what limits its size."""
        flat, entropy_N = self._flat(batch, loss)
        value = loss.loss(flat)
        value.backward()  # type: ignore[no-untyped-call]
        figures = loss.figures(flat)
        figures.sums["entropy"] = float(entropy_N.sum(dtype=torch.float64))
        figures.totals = {"loss": float(value.detach()), "forward_tokens": float(batch.real_BW.sum())}
        return figures

    def _flat(self, batch: MicroBatch, loss: Loss) -> tuple[Flat, Tensor]:
        logp_ref_N = None
        if loss.needs_reference:
            with torch.no_grad(), self._model.disable_adapter():
                logp_ref_N, _ = self._forward(batch, loss.temperature)
        logp_N, entropy_N = self._forward(batch, loss.temperature)
        device = logp_N.device
        return Flat(
            logp_N=logp_N,
            logp_sampler_N=batch.logp_sampler_N.to(device),
            advantage_N=batch.advantage_N.to(device),
            sequence_N=batch.sequence_N.to(device),
            # Rows name only tokens that count: the head does not run on others.
            mask_N=torch.ones_like(logp_N, dtype=torch.bool),
            logp_ref_N=logp_ref_N,
        ), entropy_N

    def _forward(self, batch: MicroBatch, temperature: float) -> tuple[Tensor, Tensor]:
        split_head = self._base.capabilities.split_head
        return logprobs(self._base.model, batch, temperature=temperature, split_head=split_head)


def digest_of(files: Mapping[str, bytes]) -> str:
    """What an adapter is known by: sha256 of its weights, in hex."""
    return hashlib.sha256(files[WEIGHTS]).hexdigest()


def _is_out_of_memory(error: Exception) -> bool:
    """On a CPU torch says it in words only."""
    if isinstance(error, MemoryError | torch.cuda.OutOfMemoryError):
        return True
    return "can't allocate memory" in str(error) or "not enough memory" in str(error)


def _linear_layers(model: Any) -> list[str]:
    """The names that every linear layer but the head goes by: what LoRA adapts."""
    head = model.get_output_embeddings()
    linear = [
        name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear) and module is not head
    ]
    return sorted({name.rpartition(".")[2] for name in linear})
