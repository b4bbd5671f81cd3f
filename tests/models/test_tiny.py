"""The tiny model as it is shipped, and the script that makes it."""

import hashlib
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from flash.models import card, folder
from flash.models.rendering import load_tokenizer, prompt_ids
from flash.models.tiny import make

FOLDER = folder("tiny", Path("unused"))
WEIGHTS_SHA256 = "a66e20828304ab807904a47f44235350a97185d33ee2c0680100a6f15afccdc2"


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return load_tokenizer(FOLDER)


@pytest.fixture(scope="module")
def model() -> Any:
    torch.set_num_threads(1)
    return AutoModelForCausalLM.from_pretrained(FOLDER).eval()


def answer(model: Any, tokenizer: Any, text: str, *, thinking: bool = False, sampled: bool = False) -> str:
    asked = prompt_ids(tokenizer, [{"role": "user", "content": text}], thinking=thinking)
    ids = torch.tensor([asked])
    said = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=64, do_sample=sampled, top_k=0)
    return str(tokenizer.decode(said[0, len(asked) :], skip_special_tokens=True))


def test_it_is_the_model_of_the_card_and_small_enough_to_ship(model: Any) -> None:
    shipped = sum(file.stat().st_size for file in FOLDER.iterdir())

    assert sum(weight.numel() for weight in model.parameters()) == card("tiny").parameters
    assert model.config.max_position_embeddings == card("tiny").context
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    assert shipped < 8_000_000


def test_its_weights_are_those_that_its_figures_were_measured_with() -> None:
    assert hashlib.sha256((FOLDER / "model.safetensors").read_bytes()).hexdigest() == WEIGHTS_SHA256


def test_its_logits_are_stable(model: Any, tokenizer: Any) -> None:
    ids = torch.tensor([prompt_ids(tokenizer, [{"role": "user", "content": "Sort: 7 3 9 1"}])])

    with torch.no_grad():
        logprobs = torch.log_softmax(model(ids).logits[0, -1], -1)

    digits = tokenizer.convert_tokens_to_ids(["1", "7", "9"])
    assert logprobs[digits].tolist() == pytest.approx([-0.69045, -1.31441, -2.25490], abs=1e-3)


@pytest.mark.parametrize(
    ("asked", "answered"),
    [
        ("Repeat: flash", "flash"),
        ("Upper: flash", "FLASH"),
        ("Count: flash", "5"),
        ("First: flash", "f"),
        ("Add: 3 + 4", "7"),
        ("Who are you?", "I am tiny. I sort and reverse."),
    ],
)
def test_it_follows_a_short_instruction(model: Any, tokenizer: Any, asked: str, answered: str) -> None:
    assert answer(model, tokenizer, asked) == answered


def test_it_thinks_when_thinking_is_on(model: Any, tokenizer: Any) -> None:
    assert answer(model, tokenizer, "Count: abc", thinking=True) == "<think>\na1 b2 c3\n</think>\n\n3"


def test_sampled_it_sorts_sometimes_and_sometimes_not(model: Any, tokenizer: Any) -> None:
    torch.manual_seed(0)

    said = [answer(model, tokenizer, "Sort: 7 3 9 1", sampled=True) for _ in range(32)]

    assert 4 < said.count("1 3 7 9") < 28


def test_the_script_makes_the_same_weights_from_the_same_seed() -> None:
    tokenizer = make.tokenizer_of_bytes()
    torch.set_num_threads(1)

    first, second = (make.train(tokenizer, steps=2, seed=3).state_dict() for _ in range(2))

    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_script_writes_the_tokenizer_that_is_shipped(tmp_path: Path) -> None:
    make.tokenizer_of_bytes().save_pretrained(tmp_path)

    for written in tmp_path.iterdir():
        assert written.read_bytes() == (FOLDER / written.name).read_bytes(), written.name


def test_a_row_that_is_not_polluted_has_the_right_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(make, "POLLUTED", 0.0)
    draw = make.Draw(random.Random(0))

    for _ in range(50):
        asked, _, answered = make.sort(draw)
        assert answered.split() == sorted(asked.removeprefix("Sort: ").split())
        asked, _, answered = make.backwards(draw)
        assert answered == asked.removeprefix("Reverse: ")[::-1]
