"""examples/tools: a ToolEnv, played by the host as a run plays it."""

import random
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from flash.contracts.values import Example, Verdict
from flash.host import Host, HostSpec, Limits
from flash.models.tools import call_text

TOOLS = Path(__file__).parents[2] / "examples" / "tools"


async def played(*turns: str) -> tuple[list[str], Verdict]:
    """The first row, with the policy saying this: what the tools say, and what it is worth. `{item}` is the row's."""
    host = await Host.start(HostSpec(folder=TOOLS, limits=Limits(slots=1)))
    try:
        example = (await host.rows("train", 0, 1, "")).examples[0]
        item, answer = example.metadata["item"], example.record["answer"]
        episodes = await host.episodes(example, 1, prompt_text="", deadline_s=10.0, thinking=False)
        [opening] = await episodes.start()
        assert [tool["function"]["name"] for tool in opening.messages[0]["tools"]] == ["price"]
        heard: list[str] = []
        for turn in turns:
            stepped = await episodes.step(0, turn.replace("{item}", item).replace("{answer}", answer))
            heard += [message["content"].replace(answer, "{answer}") for message in stepped.messages]
            if stepped.done:
                break
        [verdict] = await episodes.score([0])
        await episodes.close()
    finally:
        await host.close()
    assert verdict is not None
    return heard, verdict


ASK = call_text("price", {"item": "{item}"})


def test_env_test_finds_nothing(tested: Any) -> None:
    found = tested("tools", "--rows", "8")

    assert found["findings"] == []
    assert found["covered"]["rows"] == {"train": 192, "eval": 48}


@pytest.mark.parametrize(
    ("turns", "heard", "reward"),
    [
        ([ASK, "{answer}"], ["{answer}"], 1.2),
        ([ASK, "It costs {answer}."], ["{answer}"], 0.2),
        ([ASK, ASK, "{answer}"], ["{answer}", "{answer}"], 1.2),
        ([ASK, ASK, ASK], ["{answer}", "{answer}"], 0.2),
        ([ASK + ASK, "{answer}"], ["{answer}", "{answer}"], 1.2),
        (["{answer}"], [], 1.0),
        ([call_text("price", {"item": "gold"}), ASK, "{answer}"], ["no gold here", "{answer}"], 1.0),
        ([call_text("price", {"item": "gold"}), "1"], ["no gold here"], 0.0),
        ([call_text("steal", {"item": "{item}"}), "1"], ["'steal'"], 0.0),
        ([call_text("price", {"item": ["{item}"]}), "1"], ["unhashable type: 'list'"], 0.0),
        (["<tool_call>{item}</tool_call>"], [], 0.0),
        ([""], [], 0.0),
    ],
)
async def test_the_tool_answers_and_right_prices_are_paid(turns: list[str], heard: list[str], reward: float) -> None:
    told, verdict = await played(*turns)

    assert told == heard
    assert verdict.fault is None
    assert verdict.reward == pytest.approx(reward)
    assert verdict.success is (reward == 1.2)


@pytest.mark.slow
async def test_two_thousand_episodes_of_any_calls_end_without_a_fault() -> None:
    chance = random.Random(0)
    texts = [ASK, ASK * 3, ASK[:-3], ASK.replace("{item}", "\0"), call_text("price", {}), call_text("", [1]), "7", ""]
    async with AsyncExitStack() as stack:
        host = await Host.start(HostSpec(folder=TOOLS, limits=Limits(slots=2)))
        stack.push_async_callback(host.close)
        examples = (await host.rows("train", 0, 192, "")).examples

        async def episodes(example: Example) -> list[Verdict | None]:
            group = await host.episodes(example, 11, prompt_text="", deadline_s=30.0, thinking=False)
            try:
                await group.start()
                for place in range(11):
                    for _ in range(3):
                        text = chance.choice(texts).replace("{item}", example.metadata["item"])
                        if (await group.step(place, text)).done:
                            break
                return await group.score(range(11))
            finally:
                await group.close()

        verdicts = [verdict for example in examples for verdict in await episodes(example)]

    assert len(verdicts) == 2_112
    assert {verdict.fault.message for verdict in verdicts if verdict and verdict.fault} == set()
    assert {verdict.reward for verdict in verdicts if verdict} == {0.0, 0.2, 1.0, 1.2}


def test_what_is_held_out_is_not_trained_on() -> None:
    train, held_out = (set((TOOLS / "dataset" / f"{split}.txt").read_text().split()) for split in ("train", "eval"))

    assert (len(train), len(held_out)) == (192, 48)
    assert not train & held_out


@pytest.mark.long
def test_the_tiny_model_learns_to_ask_the_tool(published: Callable[..., Any]) -> None:
    project = published("tools")
    sft = project.train("configs/sft.toml")
    grpo = project.train("configs/rl.toml", "--set", f"train.init_from_adapter={sft}")

    before, after = (
        project.evaluated(run, "-r", "4", "--temperature", "0.2", "--max-tokens", "64") for run in (sft, grpo)
    )

    assert (before["faults"], after["faults"]) == (0, 0)
    assert before["success"] > 0.15
    assert after["success"] > 0.45
