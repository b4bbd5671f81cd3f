"""The sides of `bench.engine`, a process each: they draw the same rows, and say what it took.

`python -m bench.engine_parts SIDE FOLDER`, FOLDER being a base model's. Every row has a length of its own, so it is a
request of its own too, and an engine finds for itself which rows share a prompt. All return the log-probability of each
token they draw, at temperature 1, in float32.
"""

import argparse
import asyncio
import hashlib
import os
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch

from bench.parts import obey
from services.rollout.engines import Adapter, Engine, SampleRequest

PROMPTS, SAMPLES = 8, 8
PROMPT_TOKENS = (96, 160)
"""The shortest and the longest prompt."""
MAX_TOKENS = 128
"""Of the longest row; the others are spread evenly down to an eighth of it."""
CACHE_BYTES = 512 << 20
RANK = 16


@dataclass(frozen=True)
class Asked:
    """A row to be drawn."""

    prompt: tuple[int, ...]
    length: int


def asked() -> list[Asked]:
    """What every side draws: rows of a prompt follow one another. Ids that every vocabulary has."""
    rng = random.Random(0)
    low, high = PROMPT_TOKENS
    sizes = [low + (high - low) * i // (PROMPTS - 1) for i in range(PROMPTS)]
    prompts = [tuple(rng.choices(range(10, 250), k=size)) for size in rng.sample(sizes, PROMPTS)]
    lengths = [MAX_TOKENS // 8 * (1 + i % 8) for i in range(PROMPTS * SAMPLES)]
    rng.shuffle(lengths)
    return [Asked(prompts[i // SAMPLES], length) for i, length in enumerate(lengths)]


class Side(Protocol):
    """Something that draws rows."""

    async def start(self) -> None: ...
    async def draw(self, rows: Sequence[Asked], adapters: Sequence[str], seed: int) -> list[list[float]]:
        """The log-probabilities of each row, drawn with the adapter of its prompt: the folders are dealt round. None:
        the base model."""


class Generate:
    """transformers' `generate` in one padded batch, with one PEFT adapter that is not merged."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._loaded: dict[str, Any] = {}

    async def start(self) -> None:
        torch.set_num_threads(1)

    async def draw(self, rows: Sequence[Asked], adapters: Sequence[str], seed: int) -> list[list[float]]:
        from transformers import GenerationConfig

        model = self._model(adapters)
        width, longest = max(len(row.prompt) for row in rows), max(row.length for row in rows)
        ids = torch.tensor([[0] * (width - len(row.prompt)) + list(row.prompt) for row in rows])
        seen = torch.tensor([[0] * (width - len(row.prompt)) + [1] * len(row.prompt) for row in rows])
        torch.manual_seed(seed)
        with torch.inference_mode():
            found = model.generate(
                input_ids=ids, attention_mask=seen,
                generation_config=GenerationConfig(
                    do_sample=True, temperature=1.0, top_k=0, top_p=1.0, pad_token_id=0,
                    max_new_tokens=longest, min_new_tokens=longest,
                    output_logits=True, return_dict_in_generate=True,
                ),
            )  # fmt: skip
            logprobs = [
                logits.log_softmax(-1).gather(1, found.sequences[:, width + t, None])[:, 0].tolist()
                for t, logits in enumerate(found.logits)
            ]
        return [[logprobs[t][n] for t in range(row.length)] for n, row in enumerate(rows)]

    def _model(self, adapters: Sequence[str]) -> Any:
        from peft import PeftModel
        from transformers import AutoModelForCausalLM

        (folder,) = adapters or [""]
        if folder not in self._loaded:
            self._loaded.clear()
            model: Any = AutoModelForCausalLM.from_pretrained(self._folder, dtype=torch.float32)
            self._loaded[folder] = (PeftModel.from_pretrained(model, folder) if folder else model).eval()
        return self._loaded[folder]


class Ours:
    """An engine of ours, asked as the rollout service asks it."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def start(self) -> None:
        await self._engine.start()

    async def draw(self, rows: Sequence[Asked], adapters: Sequence[str], seed: int) -> list[list[float]]:
        used = [adapter(folder) for folder in adapters]
        requests = [
            SampleRequest(
                prompt_ids=row.prompt, seeds=(seed * len(rows) + n,), temperature=1.0, max_tokens=row.length,
                adapter=used[n // SAMPLES % len(used)] if used else None,
            )
            for n, row in enumerate(rows)
        ]  # fmt: skip
        return [sample.logprobs for [sample] in await asyncio.gather(*map(self._engine.sample, requests))]


def adapter(folder: str) -> Adapter:
    place = Path(folder)
    return Adapter(hashlib.sha256((place / "adapter_model.safetensors").read_bytes()).hexdigest(), place)


def torch_engine(folder: Path) -> Side:
    from services.rollout.engines.torch import TorchEngine, load

    return Ours(
        TorchEngine(lambda: replace(load(folder, device="cpu"), closing_ids=frozenset()), cache_bytes=CACHE_BYTES)
    )


class Vllm:
    """vLLM without us, in this process, given the same requests with the same settings."""

    def __init__(self, folder: Path) -> None:
        self._options = vllm_options(folder)
        self._loaded: dict[str, Any] = {}

    async def start(self) -> None:
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        arguments = self._options.arguments()
        from vllm import EngineArgs, LLMEngine

        torch.set_num_threads(1)
        self._llm = LLMEngine.from_engine_args(EngineArgs(**arguments))

    async def draw(self, rows: Sequence[Asked], adapters: Sequence[str], seed: int) -> list[list[float]]:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        used = [self._adapter(folder) for folder in adapters]
        for n, row in enumerate(rows):
            parameters = SamplingParams(
                seed=seed * len(rows) + n, temperature=1.0, max_tokens=row.length, logprobs=0, flat_logprobs=True,
                detokenize=False, ignore_eos=True, output_kind=RequestOutputKind.FINAL_ONLY,
            )  # fmt: skip
            self._llm.add_request(
                str(n), {"prompt_token_ids": list(row.prompt)}, parameters,
                lora_request=used[n // SAMPLES % len(used)] if used else None,
            )  # fmt: skip
        found: dict[int, list[float]] = {}
        while self._llm.has_unfinished_requests():
            found |= {int(said.request_id): list(said.outputs[0].logprobs.logprobs) for said in self._llm.step()}
        return [found[n] for n in range(len(rows))]

    def _adapter(self, folder: str) -> Any:
        from vllm.lora.request import LoRARequest

        if folder not in self._loaded:
            self._loaded[folder] = LoRARequest(folder, 1_000 + len(self._loaded), folder)
            self._llm.add_lora(self._loaded[folder])
        return self._loaded[folder]


def vllm_engine(folder: Path) -> Side:
    from services.rollout.engines.vllm import VllmEngine

    return Ours(VllmEngine(vllm_options(folder)))


def vllm_options(folder: Path) -> Any:
    from services.rollout.engines.vllm import Options

    return Options(
        folder, decode=lambda ids: "", closing_ids=frozenset(), cache_bytes=CACHE_BYTES, adapters=8, largest_rank=RANK
    )


SIDES = {"generate": Generate, "torch": torch_engine, "vllm": Vllm, "ours on vllm": vllm_engine}


async def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.engine_parts")
    parser.add_argument("side", choices=sorted(SIDES))
    parser.add_argument("folder", type=Path)
    given = parser.parse_args()
    side = SIDES[given.side](given.folder)

    async def draw(adapters: list[str], number: int, longest: int = MAX_TOKENS) -> dict[str, Any]:
        """All rows at once, but none longer than that: useful tokens for a CPU second."""
        rows = [replace(row, length=min(row.length, longest)) for row in asked()]
        begin = time.process_time()
        logprobs = await side.draw(rows, adapters, number)
        cpu_s = time.process_time() - begin
        assert [len(each) for each in logprobs] == [row.length for row in rows]
        return {"tokens_per_cpu_s": sum(map(len, logprobs)) / cpu_s}

    async def switch(adapters: list[str]) -> dict[str, Any]:
        """By how many milliseconds of the CPU the first token of an adapter costs more than its next."""
        row = replace(asked()[0], length=1)
        extra = []
        for folder in adapters:
            took = []
            for seed in range(3):
                begin = time.process_time()
                await side.draw([row], [folder], seed)
                took.append(time.process_time() - begin)
            extra.append(took[0] - min(took[1:]))
        return {"switch_ms": [1e3 * each for each in extra]}

    await side.start()
    await obey({"draw": draw, "switch": switch})


if __name__ == "__main__":
    asyncio.run(main())
