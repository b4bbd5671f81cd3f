"""SFT through all services in one process: conversations with calls and thoughts, and what of them is learned."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from flash.contracts.keys import dataset_key
from flash.contracts.runs import RunFailed
from flash.contracts.values import Example
from flash.models import folder
from flash.models.rendering import load_tokenizer, sft_ids
from tests.tiny_runs import ended, grpo, published, trained

CONVERSATIONS = """
from envsdk import EnvironmentSingleTurn

ASK = {"type": "function", "function": {"name": "price", "parameters": {"type": "object", "properties": {}}}}

def row(item, price):
    call = {"id": "c0", "type": "function", "function": {"name": "price", "arguments": {"item": item}}}
    return {"input": item, "output": {"messages": [
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c0", "content": price},
        {"role": "assistant", "content": "<think>It says so.</think>" + price},
    ]}}

class Prices(EnvironmentSingleTurn):
    rows = {"tea": "3", "a very long story " * 40: "1", "milk": "12", "salt": "2", "oil": "7"}
    dataset = [row(item, price) for item, price in rows.items()]
    def build_prompt_messages(self, example, prompt_text):
        return [{"role": "system", "content": "", "tools": [ASK]}, {"role": "user", "content": example.input}]
    def score_response(self, example, text):
        return 0.0

def load_environment():
    return Prices()
"""


@pytest.fixture
def prices(tmp_path: Path) -> Path:
    place = tmp_path / "prices"
    place.mkdir()
    (place / "environment.py").write_text(CONVERSATIONS)
    return place


async def test_conversations_are_learned_epoch_by_epoch_and_only_what_the_assistant_says(
    running: Any, tmp_path: Path, prices: Path
) -> None:
    knobs = {"epochs": 2, "max_steps": 3, "max_examples": 4, "batch_size": 3, "max_length": 384}
    tokenizer = load_tokenizer(folder("tiny", tmp_path))
    async with running(tmp_path) as bus:
        spec = grpo(await published(bus, prices), **knobs)
        spec = msgspec.structs.replace(spec, algorithm="sft", sampling=None, thinking=True)
        steps, _ = await trained(bus, spec)
        rows = msgspec.msgpack.decode(await bus.store.get(dataset_key(spec, 0)), type=list[Example])

    masks = [sft_ids(tokenizer, row.messages, row.completion or [], thinking=True)[1][:384] for row in rows[:4]]
    said = [sum(mask) for mask in masks]
    assert [count > 0 for count in said] == [True, False, True, True], "one is too long to keep a target"
    told = [step.metrics for step in steps[1:]]
    assert [metrics["epoch"] for metrics in told] == [0.75, 1.0, 1.75]
    assert {metrics["dropped"] for metrics in told} == {1.0}
    assert sum(metrics["tokens"] for metrics in told[:2]) == sum(said)
    assert all({"loss", "grad_norm", "learning_rate"} <= metrics.keys() for metrics in told)
    assert told[-1]["loss"] < told[0]["loss"]


async def test_rows_that_are_all_too_long_fail_the_run_with_what_to_do(
    running: Any, tmp_path: Path, prices: Path
) -> None:
    async with running(tmp_path) as bus:
        spec = grpo(await published(bus, prices), epochs=1, max_length=16)
        word = await ended(bus, msgspec.structs.replace(spec, algorithm="sft", sampling=None, thinking=True))

    assert isinstance(word, RunFailed)
    assert word.reason.startswith("none of the 5 rows has a token to learn from within train.max_length = 16 tokens")
