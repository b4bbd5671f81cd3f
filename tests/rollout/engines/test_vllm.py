"""What vLLM does by itself that would be wrong here, and what our engine makes of it."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("vllm", reason="vLLM is in a venv of its own: make vllm")

from transformers import AutoConfig
from vllm import LLMEngine
from vllm.v1.core.sched.scheduler import Scheduler

from flash.models import folder
from flash.models.rendering import closing_ids, load_tokenizer
from services.rollout.engines import Engine, GenerationFailed, SampleRequest
from services.rollout.engines.vllm import Options, VllmEngine
from services.rollout.prompts import render
from tests.rollout.engines.conftest import made_of

TOLERANCE = 1e-4
Ask = Callable[..., SampleRequest]
BLOCK = 32
LONG = "the same long beginning of a prompt, which is more than two blocks of the cache"


@pytest.fixture
def model(tmp_path: Path, engines_of_vllm: dict[str, Engine]) -> Any:
    return made_of("qwen3-vllm", tmp_path, engines_of_vllm)


@pytest.mark.parametrize("architecture", ["llama-vllm", "qwen2-vllm"])
async def test_each_architecture_is_sampled_as_peft_would(
    architecture: str, tmp_path: Path, engines_of_vllm: dict[str, Engine], ask: Ask
) -> None:
    model = made_of(architecture, tmp_path, engines_of_vllm)
    engine = await model.engine()
    requests = [ask("bare"), ask("adapted", adapter=model.adapter(1))]

    answers = await asyncio.gather(*map(engine.sample, requests))

    for request, samples in zip(requests, answers, strict=True):
        assert model.gap(request, samples) < TOLERANCE


async def test_a_new_version_finds_no_prompt_that_an_older_one_has_read(model: Any, ask: Ask) -> None:
    engine = await model.engine()

    for version in (1, 2, 3):
        request = ask(LONG, seeds=2, adapter=model.adapter(version))
        assert model.gap(request, await engine.sample(request)) < TOLERANCE


async def test_a_group_reads_its_prompt_once(model: Any, ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = await model.engine(closing=-1)
    read: list[int] = []
    schedule = Scheduler.schedule

    def watched(*args: Any, **options: Any) -> Any:
        scheduled = schedule(*args, **options)
        read.append(scheduled.total_num_scheduled_tokens)
        return scheduled

    monkeypatch.setattr(Scheduler, "schedule", watched)
    await engine.sample(ask("once: " + LONG, seeds=8, max_tokens=2))

    prompt = len("once: " + LONG)
    assert (
        sum(read) == prompt + 7 * (prompt % BLOCK) + 8
    )  # the first all of it, the others its last block; one more each


async def test_the_base_model_and_an_adapter_share_a_batch_and_keep_apart(model: Any, ask: Ask) -> None:
    engine = await model.engine(closing=-1, adapters=1)  # the base model would have what lies in the last slot
    bare, adapted = ask("bare", max_tokens=30), ask("adapted", max_tokens=30, adapter=model.adapter(1))

    answers = await asyncio.gather(engine.sample(bare), engine.sample(adapted))

    for request, samples in zip((bare, adapted), answers, strict=True):
        assert model.gap(request, samples) < TOLERANCE
    assert model.gap(replace(bare, adapter=adapted.adapter), answers[0]) > 0.1


async def test_an_adapter_that_vllm_cannot_use_costs_its_own_request_only(model: Any, ask: Ask) -> None:
    engine = await model.engine()

    with pytest.raises(GenerationFailed, match="rank 128"):
        await engine.sample(ask("large", adapter=model.adapter(1, rank=128)))

    for good in (ask("good", adapter=model.adapter(3)), ask("head", adapter=model.adapter(4, targets=["lm_head"]))):
        assert model.gap(good, await engine.sample(good)) < TOLERANCE


async def test_more_adapters_than_it_holds_take_turns_and_old_ones_leave(
    model: Any, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = await model.engine(closing=-1, adapters=1)
    removed: list[int] = []
    remove = LLMEngine.remove_lora
    monkeypatch.setattr(LLMEngine, "remove_lora", lambda llm, id: (removed.append(id), remove(llm, id))[1])
    requests = [ask(f"for {'abcdef'[i]}", seeds=1, max_tokens=8, adapter=model.adapter(i)) for i in range(6)]

    answers = await asyncio.gather(*(engine.sample(request) for request in requests * 2))

    for request, samples in zip(requests * 2, answers, strict=True):
        assert model.gap(request, samples) < TOLERANCE
    assert len(removed) == 2  # it holds four


async def test_prompts_longer_together_than_one_step_reads_keep_their_seeds(model: Any, ask: Ask) -> None:
    engine = await model.engine(closing=-1)
    requests = [ask("abcdefghijklmno"[i] * 240, seeds=(7,), max_tokens=4) for i in range(15)]

    answers = await asyncio.gather(*map(engine.sample, requests))
    (alone,) = await engine.sample(replace(requests[-1], prompt_ids=requests[-1].prompt_ids))

    assert all(len(samples[0].token_ids) == 4 for samples in answers)
    assert alone.token_ids == answers[-1][0].token_ids


async def test_a_context_that_the_cache_cannot_hold_is_as_long_as_it_can(model: Any, ask: Ask) -> None:
    engine = await model.engine(cache_bytes=5 * 32 * token_bytes(model.config))

    assert engine.context < 256
    with pytest.raises(ValueError, match=f"context is {engine.context}"):
        await engine.sample(ask("x" * 200))


async def test_a_folder_without_a_model_says_so_at_start(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Unrecognized model"):
        await VllmEngine(Options(tmp_path, lambda ids: "", frozenset())).start()


def token_bytes(config: Any) -> int:
    return int(config.num_hidden_layers * 2 * config.num_key_value_heads * config.head_dim * 4)


async def test_an_answer_is_held_to_a_schema_and_its_logprobs_are_of_what_that_leaves(tmp_path: Path) -> None:
    place = folder("tiny", tmp_path)
    tokenizer = load_tokenizer(place)
    closing = closing_ids(tokenizer, AutoConfig.from_pretrained(place))
    engine = VllmEngine(Options(place, lambda ids: str(tokenizer.decode(ids, skip_special_tokens=True)), closing))
    await engine.start()
    about = {"type": "object", "properties": {"sorted": {"enum": ["yes", "no"]}}, "required": ["sorted"]}
    prompt = render(tokenizer, [{"role": "user", "content": "Sort: 3 1 2"}], False)
    request = SampleRequest(prompt.ids, tuple(range(4)), 1.0, max_tokens=32, schema=json.dumps(about))

    samples, free = await asyncio.gather(engine.sample(request), engine.sample(replace(request, schema="")))
    with pytest.raises(ValueError, match="refuses the request: Invalid JSON"):
        await engine.sample(replace(request, schema="{no schema"))
    await engine.close()

    assert {json.loads(sample.text)["sorted"] for sample in samples} <= {"yes", "no"}
    assert all(0.0 in sample.logprobs for sample in samples)  # what could not have been another token
    assert not any(sample.text.startswith("{") for sample in free)


def test_what_an_adapter_adds_is_the_product_of_its_own_matrices() -> None:
    from vllm.lora.layers import LoRAMapping

    from services.rollout.engines.vllm_lora import CpuLora

    torch.manual_seed(1)
    slots, size, out, most = 3, 6, 5, 4
    a, b = torch.randn(slots, 1, most, size), torch.randn(slots, 1, out, most)
    a[1, 0, 2:], b[1, 0, :, 2:] = 0, 0  # of rank 2
    x = torch.randn(7, size)
    owner = [0, 1_001, 0, 1_002, 1_001, 0, 1_003]  # 0: the base model
    slot = {1_003: 0, 1_001: 1, 1_002: 2}
    expected = torch.stack(
        [x[i] @ a[slot[id], 0].T @ b[slot[id], 0].T if id else torch.zeros(out) for i, id in enumerate(owner)]
    )
    lora = CpuLora(16, max_batches=8, device="cpu")
    lora.update_metadata(
        LoRAMapping(tuple(owner), tuple(owner), is_prefill=True), [1_003, 1_001, 1_002], slots + 1, 100
    )
    linear, logits, embedded = torch.zeros(7, 2 * out), torch.zeros(7, out), torch.zeros(7, out)

    lora.add_lora_linear(linear, x, (a, a), (b, 2 * b), 1.0, (out, out))
    lora.add_lora_logits(logits, x, a.clone(), b, 1.0)  # each layer has its own
    lora.add_lora_embedding(embedded, torch.stack([x[i] @ a[slot.get(id, 0), 0].T for i, id in enumerate(owner)]), b)

    torch.testing.assert_close(linear, torch.cat([expected, 2 * expected], 1))
    torch.testing.assert_close(logits, expected)
    torch.testing.assert_close(embedded, expected)
