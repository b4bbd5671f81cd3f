"""examples/toolcalls: conversations with calls of tools, taught and played."""

import json
import operator
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flash.contracts.values import Example, Verdict
from flash.host import Host, HostSpec, Limits
from flash.models import folder
from flash.models.rendering import load_tokenizer, sft_ids
from flash.models.tools import call_text

TOOLCALLS = Path(__file__).parents[2] / "examples" / "toolcalls"
SUM = {"a": 13, "b": 40}
GIVES: dict[str, Callable[..., Any]] = {"add": operator.add, "larger": max, "sort": sorted}


async def first_row() -> Example:
    host = await Host.start(HostSpec(folder=TOOLCALLS, limits=Limits(slots=1)))
    try:
        return (await host.rows("train", 0, 1, "")).examples[0]
    finally:
        await host.close()


async def played(*turns: str) -> tuple[list[str], Verdict]:
    """The first row, `Add: 13 + 40`, with the policy saying this: what the tools say, and what it is worth."""
    host = await Host.start(HostSpec(folder=TOOLCALLS, limits=Limits(slots=1)))
    try:
        example = (await host.rows("train", 0, 1, "")).examples[0]
        episodes = await host.episodes(example, 1, prompt_text="", deadline_s=10.0, thinking=False)
        await episodes.start()
        heard: list[str] = []
        for number, turn in enumerate(turns, start=1):
            stepped = await episodes.step(0, turn)
            heard += [message["content"] for message in stepped.messages]
            assert stepped.done == (number == len(turns))
        [verdict] = await episodes.score([0])
        await episodes.close()
    finally:
        await host.close()
    assert verdict is not None
    return heard, verdict


def figures(verdict: Verdict) -> dict[str, Any]:
    return {metric.name: metric.score for metric in verdict.metrics}


def test_env_test_finds_nothing(tested: Any) -> None:
    found = tested("toolcalls", "--rows", "8")

    assert found["findings"] == []
    assert found["covered"]["rows"] == {"train": 256, "eval": 64}


async def test_the_assistant_alone_is_trained_on_calls_included() -> None:
    tokenizer = load_tokenizer(folder("tiny", Path("unused")))
    example = await first_row()

    ids, mask = sft_ids(tokenizer, example.messages, example.completion or [])

    spoken = tokenizer.decode([id for id, bit in zip(ids, mask, strict=True) if bit])
    call = '{"name": "add", "arguments": {"a": 13, "b": 40}}'
    assert spoken == f"\n<tool_call>\n{call}\n</tool_call><|im_end|>53<|im_end|>"
    assert "tool\n53<|im_end|>" in tokenizer.decode(ids)


async def test_the_right_call_and_the_tools_answer_earn_everything() -> None:
    heard, verdict = await played(call_text("add", SUM), "53")

    assert heard == ["53"]
    assert (verdict.reward, verdict.success) == (1.0, True)
    assert figures(verdict) == {"exact_call": 1.0, "any_call": 1.0, "right_answer": 1.0}


@pytest.mark.parametrize(
    ("turns", "heard", "reward"),
    [
        (["53"], [], 0.0),  # guessed without the tool
        (["Add: 13 + 40"], [], 0.0),
        (['<tool_call>{"name": "add"}</tool_call>'], [], 0.0),
        ([call_text("add", SUM), "54"], ["53"], 0.5),
        ([call_text("add", SUM), call_text("add", SUM)], ["53"], 0.5),
        ([call_text("add", {"a": 40, "b": 13}), "53"], ["53"], 0.5),
        ([call_text("add", {"a": 13}), "53"], ["error: TypeError"], 0.5),
        ([call_text("divide", SUM), "0"], ["error: KeyError"], 0.0),
        ([call_text("sort", {"digits": [[1], 2]}), ""], ["error: TypeError"], 0.0),
    ],
)
async def test_anything_else_earns_less(turns: list[str], heard: list[str], reward: float) -> None:
    told, verdict = await played(*turns)

    assert told == heard
    assert (verdict.reward, verdict.success, verdict.fault) == (reward, False, None)


@pytest.mark.parametrize(("split", "count"), [("train", 256), ("eval", 64)])
def test_every_row_ends_with_what_its_tool_gives(split: str, count: int) -> None:
    rows = [json.loads(line) for line in (TOOLCALLS / "dataset" / f"{split}.jsonl").read_text().splitlines()]

    assert len(rows) == count
    for row in rows:
        call, tool, answer = row["output"]["messages"]
        function = call["tool_calls"][0]["function"]
        given = GIVES[function["name"]](*function["arguments"].values())
        assert tool["content"] == answer["content"] == json.dumps(given)


@pytest.mark.long
def test_the_tiny_model_learns_to_call_tools(published: Callable[..., Any]) -> None:
    project = published("toolcalls")

    run = project.train("configs/sft.toml")
    found = project.evaluated(run, "--temperature", "0", "--max-tokens", "96")

    assert found["faults"] == 0
    assert found["success"] > 0.75
