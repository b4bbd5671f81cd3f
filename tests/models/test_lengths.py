"""flash/models/lengths.py, on the tiny model's tokenizer: a token a byte, and one for each mark and role."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from flash.contracts.spec import EnvironmentSpec, RunSpec, SamplingSpec, TrainSpec
from flash.contracts.values import Example
from flash.errors import Refused
from flash.models import folder
from flash.models.lengths import measured, summed
from flash.models.rendering import load_tokenizer, prompt_ids

TRAIN = TrainSpec(lora_rank=8, lora_alpha=16, learning_rate=1e-4, batch_size=4, max_length=64, save_every=5)
SFT = RunSpec(
    org="local", run_id="r1", algorithm="sft", model="tiny", pool="tiny", seed=1, split="train", train=TRAIN,
    environment=EnvironmentSpec(id="local/e", version="v", digest="d", key="k"),
)  # fmt: skip
GRPO = msgspec.structs.replace(
    SFT, algorithm="grpo", sampling=SamplingSpec(group_size=4, temperature=1.0, max_tokens=24)
)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return load_tokenizer(folder("tiny", Path("unused")))


def row(index: int, question: str, answer: str = "4") -> Example:
    return Example(
        index=index, id=f"example_{index:06d}", input=question, messages=[{"role": "user", "content": question}],
        completion=[{"role": "assistant", "content": answer}],
    )  # fmt: skip


def test_grpo_measures_prompts_and_one_that_fills_the_sequence_is_unusable(tokenizer: Any) -> None:
    short = row(0, "2 + 2?")

    found = measured(tokenizer, [short, row(1, "x" * 70)], GRPO)

    assert found.tokens[0] == len(prompt_ids(tokenizer, short.messages))
    assert found.tokens[1] == found.tokens[0] + 64
    assert found.unusable == [1]


def test_sft_measures_conversations_and_one_that_keeps_no_target_token_is_unusable(tokenizer: Any) -> None:
    prompt = len(prompt_ids(tokenizer, row(0, "2 + 2?").messages))

    found = measured(tokenizer, [row(0, "2 + 2?"), row(1, "2 + 2?", "4" * 60), row(2, "x" * 70)], SFT)

    assert found.tokens[1] - found.tokens[0] == 59
    assert found.tokens[0] > prompt
    assert found.tokens[1] > 64
    assert found.unusable == [2], "the long answer is cut, the long prompt leaves nothing of it"


def test_a_conversation_that_the_template_cannot_show_is_refused_by_the_name_of_its_row(tokenizer: Any) -> None:
    thinks = {"role": "assistant", "content": "<think>hm</think>4"}
    odd = msgspec.structs.replace(row(3, "2 + 2?"), completion=[thinks, {"role": "user", "content": "?"}, thinks])

    with pytest.raises(Refused, match="row example_000003 cannot be shown to tiny: "):
        measured(tokenizer, [odd], SFT)


def test_the_figures_of_a_hundred_rows_are_those_counted_by_hand() -> None:
    found = summed(list(range(1, 101)), dropped=2, spec=SFT)

    assert (found.rows, found.p50, found.p95, found.longest, found.mean) == (100, 50, 95, 100, 50.5)
    assert (found.limit, found.cut, found.dropped) == (64, 34, 2)


def test_grpo_keeps_room_for_the_answer() -> None:
    found = summed([40, 41, 64], dropped=1, spec=GRPO)

    assert (found.limit, found.cut, found.dropped) == (40, 1, 1)
