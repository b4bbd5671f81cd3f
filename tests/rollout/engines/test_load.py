"""The model that ships with Flash, as the rollout loads it."""

import asyncio
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from flash.models import folder
from flash.models.rendering import load_tokenizer
from services.rollout.engines import Sample, SampleRequest
from services.rollout.engines.torch import Loaded, TorchEngine, load
from services.rollout.prompts import Prompt, render


async def test_the_tiny_model_is_sampled_as_transformers_would(tmp_path: Path) -> None:
    place = folder("tiny", tmp_path)
    tokenizer = load_tokenizer(place)
    engine = TorchEngine(partial(load, place))
    await engine.start()
    prompts = [
        render(tokenizer, [{"role": "user", "content": text}], thinking)
        for text, thinking in (("Sort: 4 2 9", False), ("Sort: 7 1 8 3 3", True), ("hello", False))
    ]

    answers = await asyncio.gather(*(engine.sample(request(prompt, 1.0)) for prompt in prompts))
    [greedy] = await engine.sample(request(prompts[0], 0.0, seeds=1))
    await engine.close()

    model = AutoModelForCausalLM.from_pretrained(place, dtype=torch.float32)
    for prompt, samples in zip(prompts, answers, strict=True):
        assert max(gap(model, prompt, sample) for sample in samples) < 1e-4
        assert all(sample.text == tokenizer.decode(sample.token_ids, skip_special_tokens=True) for sample in samples)
    assert greedy.finish_reason == "stop"
    assert greedy.token_ids[-1] in load(place).closing_ids


def request(prompt: Prompt, temperature: float, seeds: int = 4) -> SampleRequest:
    return SampleRequest(prompt.ids, tuple(range(seeds)), temperature, max_tokens=48)


def gap(model: Any, prompt: Prompt, sample: Sample) -> float:
    ids = torch.tensor([[*prompt.ids, *sample.token_ids]])
    with torch.no_grad():
        logprobs = model(input_ids=ids).logits[0, len(prompt.ids) - 1 : -1].log_softmax(-1)
    theirs = logprobs.gather(1, torch.tensor(sample.token_ids)[:, None])[:, 0]
    return float((theirs - torch.tensor(sample.logprobs)).abs().max())


def test_a_prompt_knows_whether_it_ends_inside_a_thought(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(folder("tiny", tmp_path))
    messages = [{"role": "user", "content": "say <think>"}]

    assert not render(tokenizer, messages, thinking=False).opened
    tokenizer.chat_template = "{{ messages[0].content }}\nassistant\n<think>\n"
    assert render(tokenizer, messages, thinking=True).opened


def test_loading_needs_no_network_and_gives_what_the_engine_needs(tmp_path: Path) -> None:
    loaded = load(folder("tiny", tmp_path))

    assert isinstance(loaded, Loaded)
    assert loaded.model.dtype == torch.float32 or torch.cuda.is_available()
    assert loaded.decode([]) == ""
    assert loaded.closing_ids
