"""What each engine owes every rollout: the right distribution, the right adapter, and nobody in its way."""

import asyncio
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from services.rollout.engines import Adapter, GenerationFailed, SampleRequest

TOLERANCE = 1e-4
"""In nats, float32, on every token."""

LETTERS = "abcdefghijkl"
Ask = Callable[..., SampleRequest]


async def test_logprobs_are_those_of_a_plain_forward(model: Any, ask: Ask) -> None:
    engine = await model.engine()
    requests = [ask("hello"), ask("a"), ask("a longer prompt, of other length")]

    answers = await asyncio.gather(*map(engine.sample, requests))

    for request, samples in zip(requests, answers, strict=True):
        assert model.gap(request, samples) < TOLERANCE


async def test_logprobs_with_an_adapter_are_those_of_peft_unmerged(model: Any, ask: Ask) -> None:
    engine = await model.engine(closing=-1)
    request = ask(adapter=model.adapter(1), max_tokens=40)

    samples = await engine.sample(request)

    assert model.gap(request, samples) < TOLERANCE
    assert model.gap(replace(request, adapter=None), samples) > 0.1


async def test_logprobs_are_of_the_temperature_that_was_sampled_with(model: Any, ask: Ask) -> None:
    engine = await model.engine()
    requests = [ask("warm", temperature=t) for t in (0.5, 1.0, 1.7, 0.0)]

    answers = await asyncio.gather(*map(engine.sample, requests))

    for request, samples in zip(requests, answers, strict=True):
        assert model.gap(request, samples) < TOLERANCE


async def test_one_that_has_slept_draws_as_before(model: Any, ask: Ask) -> None:
    engine = await model.engine(closing=-1)
    request = ask("before and after", adapter=model.adapter(1), max_tokens=20)

    before = await engine.sample(request)
    await engine.sleep()
    engine.expect(model.adapter(2))
    other = replace(request, adapter=model.adapter(2))
    after, others = await asyncio.gather(engine.sample(request), engine.sample(other))

    assert [sample.token_ids for sample in after] == [sample.token_ids for sample in before]
    assert model.gap(request, after) < TOLERANCE
    assert model.gap(other, others) < TOLERANCE


async def test_temperature_zero_is_what_generate_gives_greedily(model: Any, ask: Ask) -> None:
    engine = await model.engine()
    request = ask("greedy", seeds=1, temperature=0.0, max_tokens=30)

    (sample,) = await engine.sample(request)

    theirs = model.plain().generate(
        torch.tensor([request.prompt_ids]), do_sample=False, max_new_tokens=30, attention_mask=torch.ones(1, 6)
    )
    assert sample.token_ids == theirs[0, 6:].tolist()


async def test_a_sample_depends_on_its_seed_and_not_on_its_batch_mates(model: Any, ask: Ask) -> None:
    engine = await model.engine()
    request = ask("same", seeds=(5, 6, 2**64 - 1))

    alone = await engine.sample(request)
    other = [ask("bob", seeds=4, temperature=0.7), ask("a much longer one", adapter=model.adapter(1))]
    crowded, *_ = await asyncio.gather(engine.sample(request), *map(engine.sample, other))
    (single,) = await engine.sample(replace(request, seeds=(6,)))

    assert [s.token_ids for s in crowded] == [s.token_ids for s in alone]
    assert single.token_ids == alone[1].token_ids
    assert len({tuple(s.token_ids) for s in alone}) == 3


async def test_adapters_share_a_batch_and_each_request_is_answered_by_its_own(model: Any, ask: Ask) -> None:
    engine = await model.engine(max_rows=20)
    adapters = [model.adapter(1), model.adapter(2, rank=2), None, model.adapter(3, targets=["q_proj", "v_proj"])]
    requests = [
        ask(f"prompt {LETTERS[i]}", seeds=2, adapter=adapters[i % 4], max_tokens=6 + 5 * (i % 3)) for i in range(12)
    ]

    answers = await asyncio.gather(*map(engine.sample, requests))

    for request, samples in zip(requests, answers, strict=True):
        assert model.gap(request, samples) < TOLERANCE
    for request, samples in zip(requests[:4], answers, strict=False):
        others = [adapter for adapter in adapters if adapter != request.adapter]
        assert all(model.gap(replace(request, adapter=other), samples[:1]) > 0.05 for other in others)


async def test_requests_join_while_others_are_being_drawn(model: Any, ask: Ask) -> None:
    engine = await model.engine(closing=-1)
    begun = asyncio.Event()
    early, late = ask("early", seeds=2, max_tokens=150), ask("late", seeds=2, max_tokens=10)

    first = asyncio.create_task(engine.sample(early, lambda index, piece: begun.set()))
    await begun.wait()
    second = await engine.sample(late)

    assert not first.done()
    assert model.gap(late, second) < TOLERANCE
    assert model.gap(early, await first) < TOLERANCE


async def test_finished_rows_leave_and_waiting_ones_take_their_places(model: Any, ask: Ask) -> None:
    engine = await model.engine(max_rows=3)
    requests = [ask(f"n {LETTERS[i]}", seeds=2, max_tokens=2 + 3 * i) for i in range(5)]

    answers = await asyncio.gather(*map(engine.sample, requests))

    for request, samples in zip(requests, answers, strict=True):
        assert model.gap(request, samples) < TOLERANCE


async def test_rows_that_had_to_give_way_go_on_where_they_were(model: Any, ask: Ask) -> None:
    roomy = await model.engine(closing=-1)
    tight = await model.engine(closing=-1, cache_bytes=3 * 128 * token_bytes(model.config))
    requests = [ask(f"n {LETTERS[i]}", seeds=2, max_tokens=150) for i in range(2)]

    wanted = await asyncio.gather(*map(roomy.sample, requests))
    answers = await asyncio.gather(*map(tight.sample, requests))

    assert [[s.token_ids for s in samples] for samples in answers] == [[s.token_ids for s in each] for each in wanted]
    assert model.gap(requests[1], answers[1]) < TOLERANCE


def token_bytes(config: Any) -> int:
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(config.num_hidden_layers * 2 * config.num_key_value_heads * head_dim * 4)


async def test_a_sample_ends_with_the_closing_token_and_keeps_it(model: Any, ask: Ask) -> None:
    engine = await model.engine(closing=7)

    samples = await engine.sample(ask("end", seeds=8, max_tokens=200))

    ended = [sample for sample in samples if sample.finish_reason == "stop"]
    assert ended
    for sample in ended:
        assert sample.token_ids[-1] == 7
        assert sample.token_ids.count(7) == 1
        assert len(sample.logprobs) == len(sample.token_ids)


async def test_a_stop_string_cuts_the_text_and_keeps_the_tokens(model: Any, ask: Ask) -> None:
    engine = await model.engine(closing=-1)
    (free,) = await engine.sample(ask("stop", seeds=1, max_tokens=30))
    stop = free.text[10:13]
    at = free.text.index(stop)

    (cut,) = await engine.sample(ask("stop", seeds=1, max_tokens=30, stop=("never", stop)))

    assert cut.text == free.text[:at]
    assert cut.token_ids == free.token_ids[: len(cut.token_ids)]
    assert model.decode(cut.token_ids) == free.text[: at + 3]
    assert cut.finish_reason == "stop"
    assert free.finish_reason == "length"


async def test_text_is_streamed_and_never_shows_a_stop_string(model: Any, ask: Ask) -> None:
    engine = await model.engine(closing=-1)
    (free,) = await engine.sample(ask("show", seeds=1, max_tokens=30))
    pieces: list[str] = []

    request = ask("show", seeds=1, max_tokens=30, stop=(free.text[10:13],))
    (sample,) = await engine.sample(request, lambda index, piece: pieces.append(piece))

    assert "".join(pieces) == sample.text
    assert len(pieces) > 3


async def test_cancelling_frees_the_rows_and_disturbs_nobody(model: Any, ask: Ask) -> None:
    engine = await model.engine(closing=-1, max_rows=4)
    begun = asyncio.Event()
    kept_request = ask("kept", seeds=2, max_tokens=60)

    doomed = asyncio.create_task(engine.sample(ask("doomed", max_tokens=200, seeds=2), lambda *_: begun.set()))
    kept = asyncio.create_task(engine.sample(kept_request))
    waiting = asyncio.create_task(engine.sample(ask("waits", seeds=2, max_tokens=200)))
    await begun.wait()
    doomed.cancel()
    waiting.cancel()

    assert model.gap(kept_request, await kept) < TOLERANCE
    assert (await asyncio.gather(doomed, waiting, return_exceptions=True)) != []
    assert doomed.cancelled()
    assert waiting.cancelled()
    await engine.sample(ask("after", seeds=4))


async def test_tokens_come_as_often_as_their_probability_says(model: Any, ask: Ask) -> None:
    engine = await model.engine(max_rows=64)
    request = ask("dice", seeds=2_000, max_tokens=1)

    drawn = torch.tensor([sample.token_ids[0] for sample in await engine.sample(request)])

    expected = 2_000 * model.logits(request, [1], None)[0].softmax(-1)
    common = expected >= 5  # below, chi-square is no good approximation
    seen = torch.bincount(drawn, minlength=len(expected)).float()
    chi_square = float(((seen - expected) ** 2 / expected)[common].sum())
    degrees = int(common.sum())
    assert degrees > 5
    assert chi_square < degrees + 4 * (2 * degrees) ** 0.5


async def test_a_bad_adapter_fails_its_own_request_only(model: Any, ask: Ask) -> None:
    engine = await model.engine()
    good = model.adapter(1)
    broken = model.adapter(2)
    config = json.loads((broken.folder / "adapter_config.json").read_text())
    (broken.folder / "adapter_config.json").write_text(json.dumps({**config, "use_dora": True}))
    foreign = model.adapter(3)
    (foreign.folder / "adapter_model.safetensors").write_bytes(b"no tensors")
    wild = model.adapter(4, size=1e38)

    async def outcome(adapter: Adapter) -> Any:
        try:
            return await engine.sample(ask("same", adapter=adapter))
        except GenerationFailed as error:
            return str(error)

    answers = await asyncio.gather(*map(outcome, (good, broken, foreign, wild)))

    assert model.gap(ask("same", adapter=good), answers[0]) < TOLERANCE
    assert "use_dora" in answers[1]
    assert "cannot be read" in answers[2]
    assert "not finite" in answers[3]
    assert model.gap(ask("then"), await engine.sample(ask("then"))) < TOLERANCE


async def test_an_adapter_that_was_expected_is_in_memory_before_it_is_sampled(model: Any, ask: Ask) -> None:
    engine = await model.engine()
    adapter, bad = model.adapter(1), Adapter("b" * 64, model.folder / "nowhere")
    [before] = await engine.sample(ask(seeds=1, adapter=adapter))

    fresh = await model.engine(max_rows=6)
    fresh.expect(bad)
    fresh.expect(adapter)
    await fresh.sample(ask())  # by then the thread has seen to what it was told before
    shutil.rmtree(adapter.folder)

    assert await fresh.sample(ask(seeds=1, adapter=adapter)) == [before]
    with pytest.raises(OSError, match="nowhere"):
        await fresh.sample(ask(adapter=bad))


async def test_a_prompt_without_room_is_refused(model: Any, ask: Ask) -> None:
    engine = await model.engine(closing=-1)

    with pytest.raises(ValueError, match="context is 256"):
        await engine.sample(ask("x" * 256))
    (sample,) = await engine.sample(ask("x" * 250, seeds=1, max_tokens=100))

    assert len(sample.token_ids) == 6
    assert sample.finish_reason == "length"


async def test_a_closed_engine_lets_nobody_wait(model: Any, ask: Ask) -> None:
    engine = await model.engine(closing=-1, max_rows=7)
    begun = asyncio.Event()
    asked = asyncio.create_task(engine.sample(ask("long", max_tokens=200), lambda *_: begun.set()))
    await begun.wait()

    await engine.close()

    with pytest.raises(RuntimeError, match="closed"):
        await asked
    with pytest.raises(RuntimeError, match="not running"):
        await engine.sample(ask())
