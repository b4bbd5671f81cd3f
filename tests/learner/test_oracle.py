"""TRL as an oracle: on the same batch our losses and gradients are those of its GRPOTrainer and SFTTrainer.

TRL's `_compute_loss` is private; when it changes, a test goes red here, and nothing in production.
"""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from services.learner.batch import Answer, Tree
from services.learner.loss import DrGrpo, Sft
from services.learner.policy import Base, Policy

MAX_TOKENS = 12


@pytest.fixture
def policy(make: Any) -> Policy:
    stirred: Policy = make.stir(Base(make.random_qwen3(), "random").fresh(rank=4, alpha=8, seed=1))
    return stirred


@pytest.fixture
def trl(tmp_path: Path) -> SimpleNamespace:
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    from datasets import Dataset
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {"<pad>": 0, "<eos>": 1, **{f"w{i}": i for i in range(2, 64)}}
    plain = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    plain.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=plain, pad_token="<pad>", eos_token="<eos>")
    common: dict[str, Any] = {
        "output_dir": str(tmp_path / "out"),
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "report_to": [],
        "save_strategy": "no",
        "disable_tqdm": True,
    }
    return SimpleNamespace(tokenizer=tokenizer, common=common, dataset=Dataset, folder=tmp_path)


def peft_model(policy: Policy, make: Any, folder: Path) -> Any:
    """The same weights, outside of Flash."""
    from peft import PeftModel

    for name, data in policy.files().items():
        (folder / name).write_bytes(data)
    return PeftModel.from_pretrained(make.random_qwen3(), str(folder), is_trainable=True)


def flat_gradient(model: Any) -> Tensor:
    """In the order of names as PEFT writes them to files."""
    named = {name.replace(".default.", "."): w for name, w in model.named_parameters() if ".default." in name}
    return torch.cat([named[name].grad.flatten() for name in sorted(named)])


def distance(one: Tensor, other: Tensor) -> float:
    return float((one - other).norm() / one.norm())


def grpo_of(trl: SimpleNamespace, model: Any, *, beta: float) -> Any:
    from trl import GRPOConfig, GRPOTrainer

    args = GRPOConfig(
        **trl.common,
        loss_type="dr_grpo",
        scale_rewards="none",
        beta=beta,
        max_completion_length=MAX_TOKENS,
        per_device_train_batch_size=4,
        num_generations=4,
    )
    rows = trl.dataset.from_dict({"prompt": ["w2"] * 8})
    trainer = GRPOTrainer(
        model=model, reward_funcs=lambda **k: [0.0], args=args, train_dataset=rows, processing_class=trl.tokenizer
    )
    trainer.current_gradient_accumulation_steps = 1
    return trainer


def padded(rows: Sequence[Sequence[float]], side: str, dtype: torch.dtype = torch.long) -> Tensor:
    width = max(map(len, rows))
    return torch.tensor(
        [[0] * (width - len(r)) + list(r) if side == "left" else list(r) + [0] * (width - len(r)) for r in rows],
        dtype=dtype,
    )


def trl_inputs(trees: Sequence[Tree]) -> dict[str, Tensor]:
    rows = [(tree.prompt_ids, answer) for tree in trees for answer in tree.answers]
    return {
        "prompt_ids": padded([prompt for prompt, _ in rows], "left"),
        "prompt_mask": padded([[1] * len(prompt) for prompt, _ in rows], "left"),
        "completion_ids": padded([answer.ids_T for _, answer in rows], "right"),
        "completion_mask": padded([[1] * len(answer.ids_T) for _, answer in rows], "right"),
        "tool_mask": padded([answer.mask_T for _, answer in rows], "right"),
        "advantages": torch.tensor([answer.advantage for _, answer in rows]),
    }


def with_tools(tree: Tree) -> Tree:
    """As if the environment had written every third token."""
    return replace(
        tree, answers=tuple(replace(a, mask_T=[int(t % 3 != 1) for t in range(len(a.ids_T))]) for a in tree.answers)
    )


@pytest.mark.parametrize(
    ("correction", "kl_coef", "tools"),
    [(False, 0.0, False), (True, 0.0, False), (False, 0.2, False), (True, 0.2, True)],
    ids=["plain", "importance correction", "KL", "everything"],
)
def test_the_grpo_loss_and_gradient_are_those_of_trl(
    policy: Policy, trl: SimpleNamespace, make: Any, correction: bool, kl_coef: float, tools: bool
) -> None:
    trees = [with_tools(tree) if tools else tree for tree in make.random_trees(3, 4)]
    trainer = grpo_of(trl, peft_model(policy, make, trl.folder), beta=kl_coef)
    model, inputs = trainer.model.train(), trl_inputs(trees)
    ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1)
    mask = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], 1)
    width = inputs["completion_ids"].shape[1]
    with torch.no_grad():
        old = trainer._get_per_token_logps_and_entropies(model, ids, mask, width)[0]
        if kl_coef:
            with model.disable_adapter():
                reference = trainer._get_per_token_logps_and_entropies(model, ids, mask, width)[0]
            inputs["ref_per_token_logps"] = reference
    if correction:
        rows = [answer for tree in trees for answer in tree.answers]
        sampler = padded([a.logp_sampler_T for a in rows], "right", torch.float32)
        inputs["importance_sampling_ratio"] = torch.exp(old - sampler).clamp(max=2.0)
        trainer.use_vllm = trainer.vllm_importance_sampling_correction = True

    wanted = trainer._compute_loss(model, inputs)
    wanted.backward()
    loss = DrGrpo(normaliser=12 * MAX_TOKENS, cap=2.0 if correction else None, kl_coef=kl_coef)
    gradient, found = make.gradient(policy, trees, loss, max_tokens=40)

    assert found == pytest.approx(wanted.item(), abs=1e-6)
    assert distance(flat_gradient(model), gradient) < 1e-5


def test_a_truncated_rollout_left_out_is_one_that_trl_masks(policy: Policy, trl: SimpleNamespace, make: Any) -> None:
    (tree,) = make.random_trees(1, 4)
    trainer = grpo_of(trl, peft_model(policy, make, trl.folder), beta=0.0)
    inputs = trl_inputs([tree])
    inputs["tool_mask"][2] = 0
    wanted = trainer._compute_loss(trainer.model.train(), inputs)
    wanted.backward()

    kept = replace(tree, answers=(*tree.answers[:2], tree.answers[3]))
    gradient, found = make.gradient(policy, [kept], DrGrpo(normaliser=4 * MAX_TOKENS, cap=None))

    assert found == pytest.approx(wanted.item(), abs=1e-6)
    assert distance(flat_gradient(trainer.model), gradient) < 1e-5


def test_the_sft_loss_and_gradient_are_those_of_trl(policy: Policy, trl: SimpleNamespace, make: Any) -> None:
    from trl import SFTConfig, SFTTrainer

    rows = [(make.random_ids(n, n), [0] * (n // 2) + [1] * (n - n // 2)) for n in (12, 5, 4, 9, 3, 7)]
    data = trl.dataset.from_dict({"input_ids": [ids for ids, _ in rows]})
    trainer = SFTTrainer(
        model=peft_model(policy, make, trl.folder),
        args=SFTConfig(**trl.common, max_length=32),
        train_dataset=data,
        processing_class=trl.tokenizer,
    )
    ids, mask = padded([ids for ids, _ in rows], "right"), padded([mask for _, mask in rows], "right")
    seen = padded([[1] * len(ids) for ids, _ in rows], "right")
    inputs = {"input_ids": ids, "attention_mask": seen, "labels": ids.masked_fill(mask == 0, -100)}
    wanted = trainer.compute_loss(trainer.model.train(), inputs)
    wanted.backward()

    trees = [Tree((), (Answer(ids, mask),)) for ids, mask in rows]
    gradient, found = make.gradient(policy, trees, Sft(normaliser=float(mask.sum())), max_tokens=16)

    assert found == pytest.approx(wanted.item(), abs=1e-5)
    assert distance(flat_gradient(trainer.model), gradient) < 1e-5
