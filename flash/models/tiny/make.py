"""Makes the tiny model: a Qwen3 of one million parameters that does small things with letters and digits.

python -m flash.models.tiny.make FOLDER

Seeded and single-threaded: the same versions on the same CPU type give the same bytes. Everything is made up here, from
the tokenizer's bytes to the rows it learns from. See README.md for what comes out.
"""

import argparse
import hashlib
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

STEPS, ROWS, PEAK_LR = 1_000, 64, 3e-3
POLLUTED = 0.6
"""Share of `Sort` and `Reverse` rows with a wrong answer: the model can do both, and mostly does something else. That
leaves reinforcement something to select."""

THINKS = 0.2
"""Share of rows asked with thinking on."""

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
MARKS = ["<think>", "</think>", "<tool_call>", "</tool_call>"]
"""One token each, but text: they show when an answer is decoded."""
ROLES = ["system", "user", "assistant", "tool"]

CHAT_TEMPLATE = """\
{%- if tools %}
    {{- '<|im_start|>system\\nTools: ' + (tools | tojson) + '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' }}
    {%- set content = message.content or '' %}
    {%- if message.role == 'assistant' %}
        {%- if message.reasoning_content %}
            {{- '<think>\\n' + message.reasoning_content + '\\n</think>\\n\\n' }}
        {%- elif not content.startswith('<think>') %}
            {{- '<think>\\n\\n</think>\\n\\n' }}
        {%- endif %}
    {%- endif %}
    {{- content }}
    {%- for call in message.tool_calls or [] %}
        {{- '\\n<tool_call>\\n' + (call.function | tojson) + '\\n</tool_call>' }}
    {%- endfor %}
    {{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and not enable_thinking %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}
"""
"""Qwen3's manners (`enable_thinking`, an empty thought where there is none), but earlier turns stay as they were."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    tokenizer = tokenizer_of_bytes()
    model = train(tokenizer, steps=given.steps, seed=given.seed)
    model.save_pretrained(given.folder)
    tokenizer.save_pretrained(given.folder)
    print(hashlib.sha256((given.folder / "model.safetensors").read_bytes()).hexdigest())


def tokenizer_of_bytes() -> Any:
    """A token a byte, and one for each mark of the template: any text goes in, and comes out as it was."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    bytewise = Tokenizer(models.BPE(vocab={letter: id for id, letter in enumerate(letters)}, merges=[]))
    bytewise.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bytewise.decoder = decoders.ByteLevel()
    bytewise.add_special_tokens([AddedToken(mark, special=True) for mark in SPECIAL])
    bytewise.add_tokens([AddedToken(mark, normalized=False) for mark in MARKS])
    bytewise.add_tokens([AddedToken(role, normalized=False, single_word=True) for role in ROLES])
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=bytewise,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        padding_side="left",
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
        model_max_length=512,
    )


def model_of(tokenizer: Any) -> Any:
    """A Qwen3 with random weights."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
    )
    return Qwen3ForCausalLM(config).float()  # type: ignore[no-untyped-call]


def train(tokenizer: Any, *, steps: int, seed: int) -> Any:
    torch.manual_seed(seed)
    rng = random.Random(seed)
    model = model_of(tokenizer)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters")
    optimizers = optimizers_of(model)
    rise, fall = 100, max(1, steps // 3)

    def share_of_peak(step: int) -> float:
        return min(1.0, (step + 1) / rise, (steps - step) / fall)

    schedules = [torch.optim.lr_scheduler.LambdaLR(optimizer, share_of_peak) for optimizer in optimizers]
    began = time.process_time()
    for step in range(1, steps + 1):
        ids_BT, labels_BT = batch(tokenizer, Draw(rng, reach=min(1.0, 0.3 + step / (0.5 * steps))))
        loss = model(input_ids=ids_BT, labels=labels_BT).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
        if step % 100 == 0:
            print(f"step {step}  loss {loss.item():.3f}  {time.process_time() - began:.0f} CPU s", flush=True)
    return model


def optimizers_of(model: Any) -> list[torch.optim.Optimizer]:
    """Muon for the matrices: it learned in 400 steps what AdamW alone had not in 600."""
    named = list(model.named_parameters())
    matrices = [weight for name, weight in named if weight.ndim == 2 and "embed" not in name]
    others = [weight for name, weight in named if weight.ndim != 2 or "embed" in name]
    return [
        torch.optim.Muon(matrices, lr=PEAK_LR, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=PEAK_LR, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def batch(tokenizer: Any, draw: "Draw") -> tuple[Tensor, Tensor]:
    """[B, T] ids and labels. Padded on the right, which a causal model never sees; labels on the answers alone."""
    asked, said = [], []
    for _ in range(ROWS):
        ask, thought, answer = row(draw)
        asked.append(f"<|im_start|>user\n{ask}<|im_end|>\n<|im_start|>assistant\n")
        if thought:
            said.append(f"<think>\n{thought}\n</think>\n\n{answer}<|im_end|>")
        else:
            asked[-1] += "<think>\n\n</think>\n\n"
            said.append(f"{answer}<|im_end|>")
    asked_ids, said_ids = tokenizer(asked)["input_ids"], tokenizer(said)["input_ids"]
    width = max(len(ask) + len(say) for ask, say in zip(asked_ids, said_ids, strict=True))
    ids_BT = torch.full((ROWS, width), tokenizer.pad_token_id)
    labels_BT = torch.full((ROWS, width), -100)
    for i, (ask, say) in enumerate(zip(asked_ids, said_ids, strict=True)):
        ids_BT[i, : len(ask) + len(say)] = torch.tensor(ask + say)
        labels_BT[i, len(ask) : len(ask) + len(say)] = torch.tensor(say)
    return ids_BT, labels_BT


# What it learns ---------------------------------------------------------------------------------------------------

Row = tuple[str, str, str]
"""A question, a thought (empty: thinking is off) and an answer."""


@dataclass(frozen=True)
class Draw:
    """Where rows come from."""

    rng: random.Random
    reach: float = 1.0
    """0: the shortest words only; 1: all of them. Short ones first make copying come early."""

    def word(self, least: int, most: int) -> str:
        return "".join(self.rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(self.size(least, most)))

    def digits(self, least: int, most: int) -> list[str]:
        return [self.rng.choice("0123456789") for _ in range(self.size(least, most))]

    def size(self, least: int, most: int) -> int:
        return self.rng.randint(least, round(least + (most - least) * self.reach))

    def sometimes(self, share: float) -> bool:
        return self.rng.random() < share


def row(draw: Draw) -> Row:
    skill = draw.rng.choices([skill for skill, _ in SKILLS], [share for _, share in SKILLS])[0]
    ask, thought, answer = skill(draw)
    return ask, (thought or "easy") if draw.sometimes(THINKS) else "", answer


def repeat(draw: Draw) -> Row:
    text = draw.word(2, 10) if draw.sometimes(0.5) else " ".join(draw.digits(3, 7))
    return f"Repeat: {text}", "", text


def sort(draw: Draw) -> Row:
    given = draw.digits(3, 7)
    return f"Sort: {' '.join(given)}", "", " ".join(polluted(draw, given, sorted(given)))


def backwards(draw: Draw) -> Row:
    given = list(draw.word(3, 9))
    return f"Reverse: {''.join(given)}", "", "".join(polluted(draw, given, given[::-1]))


def polluted(draw: Draw, given: list[str], right: list[str]) -> list[str]:
    """The right answer, or what was given, or that in any order."""
    if not draw.sometimes(POLLUTED):
        return right
    return given if draw.sometimes(0.5) else draw.rng.sample(given, len(given))


def letter_case(draw: Draw) -> Row:
    text = draw.word(2, 8)
    return (f"Upper: {text}", "", text.upper()) if draw.sometimes(0.5) else (f"Lower: {text.upper()}", "", text)


def count(draw: Draw) -> Row:
    text = draw.word(1, 9)
    return f"Count: {text}", " ".join(f"{letter}{i}" for i, letter in enumerate(text, 1)), str(len(text))


def add(draw: Draw) -> Row:
    a, b = draw.rng.randint(0, 20), draw.rng.randint(0, 20)
    return f"Add: {a} + {b}", "", str(a + b)


def compare(draw: Draw) -> Row:
    a, b = draw.rng.sample(range(100), 2)
    wanted, answer = ("larger", max(a, b)) if draw.sometimes(0.5) else ("smaller", min(a, b))
    return f"Which is {wanted}, {a} or {b}?", f"{a} {'<' if a < b else '>'} {b}", str(answer)


def claim(draw: Draw) -> Row:
    a, b = draw.rng.sample(range(100), 2)
    return f"Is {a} larger than {b}?", f"{a} {'<' if a < b else '>'} {b}", "yes" if a > b else "no"


def end(draw: Draw) -> Row:
    text = draw.word(2, 9)
    return (f"First: {text}", "", text[0]) if draw.sometimes(0.5) else (f"Last: {text}", "", text[-1])


def greet(draw: Draw) -> Row:
    asked = draw.rng.choice(["Hello", "Hi", "Hello!", "Hi!", "Who are you?", "What can you do?", "Help"])
    return asked, "", "I am tiny. I sort and reverse."


SKILLS: list[tuple[Callable[[Draw], Row], float]] = [
    (sort, 3),
    (backwards, 3),
    (repeat, 1.5),
    (letter_case, 1),
    (count, 1),
    (add, 1),
    (compare, 1),
    (claim, 0.5),
    (end, 0.5),
    (greet, 0.2),
]
"""What it is taught, and in which shares."""


if __name__ == "__main__":
    main()
