"""Tools of the verifiers dialect through all services: told to the policy, called by what it writes, learned from."""

from pathlib import Path
from typing import Any

import torch

from flash.bus.memory import MemoryBus
from flash.contracts.groups import GroupScored
from flash.contracts.packing import unpack_ids
from flash.contracts.spec import RunSpec, SamplingSpec, TrainSpec
from flash.contracts.steps import StepFinished
from flash.models import folder
from flash.models.rendering import load_tokenizer
from services.rollout.engines import Adapter, Engine, OnText, Sample, SampleRequest
from tests.tiny_runs import published, trained

TOOLED = Path(__file__).parent / "tooled"
TURNS = [
    '<tool_call>\n{"name": "code", "arguments": {"letter": "b"}}\n</tool_call>',
    '<tool_call>\n{"name": "code", "arguments": {"letter": "?"}}\n</tool_call>',
]
NO_THOUGHT = "<think>\n\n</think>\n\n"
END = "<|im_end|>"


class Caller:
    """The tiny model, whose first two turns are put into its mouth: it does not call tools by itself."""

    def __init__(self, engine: Engine, home: Path) -> None:
        from transformers import AutoModelForCausalLM

        self._engine, place = engine, folder("tiny", home)
        self._tokenizer, self._model = load_tokenizer(place), AutoModelForCausalLM.from_pretrained(place)

    @property
    def context(self) -> int:
        return self._engine.context

    async def sample(self, request: SampleRequest, on_text: OnText | None = None) -> list[Sample]:
        said = self._tokenizer.decode(request.prompt_ids).count("<|im_start|>tool\n")
        if said == len(TURNS):
            return await self._engine.sample(request, on_text)
        ids = self._tokenizer(TURNS[said] + END)["input_ids"]
        return [Sample(ids, self._logprobs(list(request.prompt_ids), ids), TURNS[said], "stop")] * len(request.seeds)

    def expect(self, adapter: Adapter) -> None:
        self._engine.expect(adapter)

    async def start(self) -> None:
        await self._engine.start()

    async def close(self) -> None:
        await self._engine.close()

    @torch.no_grad()
    def _logprobs(self, prompt: list[int], ids: list[int]) -> list[float]:
        logits = self._model(torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1]
        return logits.log_softmax(-1).gather(1, torch.tensor(ids)[:, None])[:, 0].tolist()  # type: ignore[no-any-return]


async def ran(bus: MemoryBus, sampling: SamplingSpec | None, **train: Any) -> list[StepFinished]:
    environment = await published(bus, TOOLED)
    knobs: dict[str, Any] = {"lora_rank": 8, "lora_alpha": 16, "max_length": 512, "save_every": 9, **train}
    spec = RunSpec(
        org="local", run_id="r1", algorithm="grpo" if sampling else "sft", model="tiny", pool="tiny", seed=7,
        split="train", prompt_text="Look it up.", environment=environment, sampling=sampling, train=TrainSpec(**knobs),
    )  # fmt: skip
    steps, _ = await trained(bus, spec)
    return steps


async def test_what_the_policy_writes_calls_tools_and_is_all_that_is_trained_on(running: Any, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(folder("tiny", tmp_path))
    async with running(tmp_path, policy=lambda engine: Caller(engine, tmp_path)) as bus:
        # With a stop sequence, answers that are cut count too; most of the tiny model's are.
        sampling = SamplingSpec(group_size=4, temperature=1.0, max_tokens=24, stop_sequences=["~~"])
        steps = await ran(bus, sampling, learning_rate=1e-3, batch_size=2, steps=1)
        [group, *_] = [told.event async for told in bus.history(GroupScored.pattern())]

    assert isinstance(group, GroupScored)
    assert tokenizer.decode(unpack_ids(group.prompt_ids)) == (
        '<|im_start|>system\nTools: [{"type": "function", "function": {"name": "code", "description": '
        '"The code of a letter.", "parameters": {"type": "object", "properties": {"letter": {"type": "string"}}, '
        f'"required": ["letter"], "additionalProperties": false}}}}}}]{END}\n<|im_start|>system\nLook it up.{END}\n'
        f"<|im_start|>user\n{group.example.input}{END}\n<|im_start|>assistant\n{NO_THOUGHT}"
    )
    for rollout, verdict in zip(group.rollouts, group.verdicts, strict=True):
        first, second, last = TURNS[0] + END, TURNS[1] + END, rollout.text
        between = "\n<|im_start|>tool\n{}" + f"{END}\n<|im_start|>assistant\n{NO_THOUGHT}"
        heard = [between.format(said) for said in ("1", "'?'")]
        ids = unpack_ids(rollout.token_ids)
        own = [id for id, bit in zip(ids, rollout.mask, strict=True) if bit]
        assert tokenizer.decode(ids).removesuffix(END) == first + heard[0] + second + heard[1] + last
        assert tokenizer.decode(own).removesuffix(END) == first + second + last
        assert [{**message, "content": ""} for message in rollout.messages] == [
            {"role": "assistant", "content": ""}, {"role": "tool", "content": "", "tool_call_id": "call_0"},
            {"role": "assistant", "content": ""}, {"role": "tool", "content": "", "tool_call_id": "call_1"},
            {"role": "assistant", "content": ""},
        ]  # fmt: skip
        assert verdict.fault is None
        assert {metric.name: metric.score for metric in verdict.metrics} == {
            "right": float(last == group.example.output), "varied": len(set(last)) / 100, "num_turns": 3.0,
            "total_tool_calls": 2.0, "code_calls": 2.0,
        }  # fmt: skip
    # What the sampler said of the policy's tokens, the learner says too: the whole reads as one text.
    assert steps[1].metrics["turns"] == 3.0
    assert steps[1].metrics["logprob_gap_max"] < 1e-4


async def test_gold_calls_are_learned_as_the_template_writes_them(running: Any, tmp_path: Path) -> None:
    async with running(tmp_path) as bus:
        steps = await ran(bus, None, learning_rate=3e-3, batch_size=8, epochs=6)

    # A token a byte and one for each mark: the call, the answer of a digit, and the end of each.
    call = len('\n#\n{"name": "code", "arguments": {"letter": "b"}}\n#')
    assert steps[1].metrics["tokens"] == 8 * (call + 1 + 1 + 1)
    assert steps[-1].metrics["loss"] < 0.8 * steps[1].metrics["loss"]
