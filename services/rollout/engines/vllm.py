"""The engine for production: vLLM. On the CPU in this process, which takes half the time that its own processes take.

A sample is a request of vLLM, so that each has its own seed; the samples of a group find their prompt in the prefix
cache. What ends a sample, and its text, is decided here as for the torch engine.
"""

import os
from collections import deque
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from math import isnan
from pathlib import Path
from typing import Any

from flash.errors import FlashError
from services.rollout.engines import Adapter, GenerationFailed, SampleRequest
from services.rollout.engines.rows import Job, Row
from services.rollout.engines.stopping import Decode
from services.rollout.engines.threaded import ThreadedEngine
from services.rollout.engines.vllm_adapters import Held

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""vLLM makes room for one of these."""


@dataclass(frozen=True)
class Options:
    """How vLLM is to be started."""

    folder: Path
    """The base model's."""
    decode: Decode
    closing_ids: frozenset[int]
    device: str = "cpu"
    """`cpu`, `auto` for any GPU, or as torch calls one: `cuda:1`."""
    dtype: str = "float32"
    threads: int = 1
    max_rows: int = 64
    cache_bytes: int = 512 << 20
    """Of each device, where there are several. Where the model's context does not fit, it is as long as does."""
    adapters: int = 4
    """How many may share a batch. Four times as many are kept ready."""
    largest_rank: int = 64
    tensor_parallel: int = 1
    sleeps: bool = False
    """Its memory on a GPU is taken in a way that `sleep` can give back."""

    @property
    def held_adapters(self) -> int:
        return 4 * self.adapters

    def arguments(self) -> dict[str, Any]:
        """For vLLM's EngineArgs. Sets what vLLM wants to find in the environment, where nobody else has."""
        for name, value in self._environment():
            os.environ.setdefault(name, value)
        arguments: dict[str, Any] = {
            "model": str(self.folder),
            "dtype": self.dtype,
            "max_model_len": -1,
            "max_num_seqs": self.max_rows,
            "kv_cache_memory_bytes": self.cache_bytes,
            "logprobs_mode": "processed_logprobs",
            "enable_lora": True,
            "max_loras": self.adapters,
            "max_cpu_loras": self.held_adapters,
            "max_lora_rank": next(rank for rank in RANKS if rank >= self.largest_rank),
            "tensor_parallel_size": self.tensor_parallel,
            # JSON without white space, of which a model that has lost its way may write until it has no room left.
            "structured_outputs_config": {"backend": "xgrammar", "disable_any_whitespace": True},
            "disable_log_stats": True,
            "use_tqdm_on_load": False,
        }
        if self.device == "cpu":
            # Blocks of 128, as by default, keep shorter prompts out of the prefix cache. A prompt that is read in parts
            # would want back a number that it has drawn, which the random generators of the CPU cannot give.
            arguments |= {
                "block_size": 32,
                "enforce_eager": True,
                "enable_chunked_prefill": False,
                "max_num_batched_tokens": max(self._context(), self.max_rows, 2048),
            }
            return arguments
        arguments["enable_sleep_mode"] = self.sleeps
        if number := self.device.partition(":")[2]:
            arguments["device_ids"] = [int(number)]
        return arguments

    def _environment(self) -> Iterator[tuple[str, str]]:
        yield "VLLM_LOGGING_LEVEL", "ERROR"
        yield "VLLM_NO_USAGE_STATS", "1"
        if self.device == "cpu":
            yield "OMP_NUM_THREADS", str(self.threads)
            yield "VLLM_CPU_OMP_THREADS_BIND", "nobind"  # else it takes core 0, and keeps core 1 free
            yield "TORCHDYNAMO_DISABLE", "1"  # else it compiles a helper at the first request, for 11 s, with g++

    def _context(self) -> int:
        from transformers import AutoConfig

        config = AutoConfig.from_pretrained(self.folder, local_files_only=True)
        return int(config.get_text_config().max_position_embeddings)


class VllmEngine(ThreadedEngine):
    """See `Engine`."""

    follows_schemas = True

    def __init__(self, options: Options) -> None:
        super().__init__(options.threads)
        self._options = options

    def _loaded(self) -> tuple["Requests", int]:
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        arguments = self._options.arguments()
        from vllm import EngineArgs, LLMEngine

        llm = LLMEngine.from_engine_args(EngineArgs(**arguments))
        check_plugin(self._options)
        return Requests(llm, self._options), llm.model_config.max_model_len


class Requests:
    """Samples as requests of an LLMEngine. See `Drawing`."""

    def __init__(self, llm: Any, options: Options) -> None:
        self._llm = llm
        self._options = options
        self._held = Held(options.folder, options.held_adapters)
        self._waiting: deque[Job] = deque()
        self._drawn: dict[str, Row] = {}
        """By the name of the request."""
        self._names = map(str, count())

    @property
    def is_idle(self) -> bool:
        return not self._waiting and not self._drawn

    @property
    def jobs(self) -> Collection[Job]:
        return {*self._waiting, *(row.job for row in self._drawn.values())}

    def add(self, job: Job) -> None:
        self._waiting.append(job)

    def load(self, adapter: Adapter) -> None:
        if self._held.knows(adapter) or not self._held.has_room():
            return
        self._held.check(adapter)
        if (surplus := self._held.surplus()) is not None:
            self._llm.remove_lora(surplus.lora_int_id)
        try:
            self._llm.add_lora(self._held.introduce(adapter))
        except Exception as error:  # whatever vLLM finds wrong with it
            self._held.forget(adapter)
            raise unusable(adapter, error) from error

    def step(self) -> None:
        self._leave([name for name, row in self._drawn.items() if row.job.cancelled])
        self._admit()
        if not self._drawn:
            return
        for output in self._llm.step():
            row, said = self._drawn[output.request_id], output.outputs[0]
            if row.job.cancelled:
                continue
            try:
                ended = take(row, said, self._options)
            except GenerationFailed as error:
                row.job.cancelled = True
                row.job.on_done(error)
                continue
            if not ended:
                continue
            self._leave([output.request_id], ask=not output.finished)
            job = row.job
            if len(job.samples) == len(job.request.seeds):
                job.on_done([job.samples[index] for index in range(len(job.samples))])

    def clear(self) -> None:
        self._waiting.clear()
        self._leave(list(self._drawn))

    def sleep(self) -> None:
        """vLLM has nothing that it could give back on the CPU."""

    def _leave(self, names: list[str], *, ask: bool = True) -> None:
        """These are drawn no further; vLLM knows already, or is asked to."""
        if names and ask:
            self._llm.abort_request(names)
        for name in names:
            adapter = self._drawn.pop(name).job.request.adapter
            if adapter:
                self._held.give_back(adapter)

    def _admit(self) -> None:
        """Hand over every job whose adapter vLLM holds, or can load."""
        later: deque[Job] = deque()
        for job in self._waiting:
            if job.cancelled:
                continue
            adapter = job.request.adapter
            if adapter and not self._held.knows(adapter) and not self._held.has_room():
                later.append(job)
                continue
            try:
                self._hand_over(job)
            except (GenerationFailed, ValueError, OSError) as error:
                job.cancelled = True
                job.on_done(error)
        self._waiting = later

    def _hand_over(self, job: Job) -> None:
        adapter = job.request.adapter
        if adapter:
            self.load(adapter)
        prompt, parameters = prompt_of(job.request), list(parameters_of(job, self._options))
        for index, each in enumerate(parameters):
            name = next(self._names)
            lora = self._held.borrow(adapter) if adapter else None
            self._drawn[name] = Row(job, index, [])
            with refusals():
                self._llm.add_request(name, prompt, each, lora_request=lora)


def check_plugin(options: Options) -> None:
    """Raises FlashError where vLLM was started without what makes it right: see `vllm_lora`."""
    from services.rollout.engines import vllm_lora

    if options.device == "cpu" and not vllm_lora.is_in_use():
        raise FlashError(
            "vLLM has not loaded its plugin flash-cpu-lora, without which it mixes adapters up on the CPU: "
            "install Flash anew where vLLM is, and leave VLLM_PLUGINS unset"
        )


def prompt_of(request: SampleRequest) -> Any:
    from vllm.inputs.engine import tokens_input

    return tokens_input(list(request.prompt_ids))


def parameters_of(job: Job, options: Options) -> Iterator[Any]:
    """vLLM's sampling parameters, for each seed."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

    request = job.request
    watched = bool(job.on_text or request.stop)
    schema = StructuredOutputsParams(json=request.schema) if request.schema else None
    for seed in request.seeds:
        yield SamplingParams(
            seed=_signed(seed),
            temperature=request.temperature,
            max_tokens=job.max_tokens,
            logprobs=0,  # of what was drawn
            flat_logprobs=True,
            detokenize=False,
            ignore_eos=True,
            stop_token_ids=sorted(options.closing_ids),
            structured_outputs=schema,
            output_kind=RequestOutputKind.DELTA if watched else RequestOutputKind.FINAL_ONLY,
        )


def take(row: Row, said: Any, options: Options) -> bool:
    """The tokens that vLLM has drawn for a row since the last time. True when the sample ends with them."""
    for id, logprob in zip(said.token_ids, said.logprobs.logprobs, strict=True):
        if isnan(logprob):
            adapter = row.adapter
            policy = f"adapter {adapter[:12]}" if adapter else "the base model"
            raise GenerationFailed(f"{policy} gives probabilities that are not finite")
        if row.append(id, logprob, options.closing_ids, options.decode):
            return True
    return False


@contextmanager
def refusals() -> Iterator[None]:
    """What vLLM finds wrong with a request before it draws: a ValueError."""
    from vllm.exceptions import VLLMClientError

    try:
        yield
    except VLLMClientError as error:
        raise ValueError(f"vLLM refuses the request: {error}") from error


def unusable(adapter: Adapter, error: Exception) -> GenerationFailed:
    return GenerationFailed(f"vLLM cannot use adapter {adapter.digest[:12]}: {error}")


def _signed(seed: int) -> int:
    """As a signed number of 64 bits, which is what vLLM has room for; but -1 is none to it."""
    return min(seed, 2**64 - 2) - (2**64 if seed >= 2**63 else 0)
