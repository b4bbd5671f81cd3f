"""The peer for a GRPO step: TRL's GRPOTrainer on the same model, prompts and group sizes.

`python -m bench.peers.trl`, driven by `bench.step`. It draws its own answers, so its seconds are given with
the tokens it drew. The learning rate is 0: the policy stays put, and its answers as long as ours were.
"""

import asyncio
import random
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig, set_peft_model_state_dict
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import GRPOConfig, GRPOTrainer

from bench.parts import obey
from bench.taken import ADAPTER_FILES, Run, read


class Timed(GRPOTrainer):  # type: ignore[misc]
    """Notes what each step took."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.cpu_s: list[float] = []
        self.tokens: list[int] = []

    def _generate_single_turn(self, *arguments: Any, **named: Any) -> Any:
        found = super()._generate_single_turn(*arguments, **named)
        self.tokens.append(sum(map(len, found[0])))
        return found

    def training_step(self, *arguments: Any, **named: Any) -> Any:
        begin = time.process_time()
        found = super().training_step(*arguments, **named)
        self.cpu_s.append(time.process_time() - begin)
        return found


def train(run: Run, steps: int) -> dict[str, Any]:
    """The seconds and tokens of each step."""
    torch.set_num_threads(1)
    sampling, rng = run.spec.sampling, random.Random(0)
    assert sampling is not None
    shape = LoraConfig.from_pretrained(run.start)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Timed(
            model=AutoModelForCausalLM.from_pretrained(run.model, dtype=torch.float32),
            processing_class=AutoTokenizer.from_pretrained(run.model),
            # Any rewards with variance make every group count, as most of ours do.
            reward_funcs=lambda completions, **_: [rng.random() for _ in completions],
            args=GRPOConfig(
                output_dir=folder, use_cpu=True, bf16=False, gradient_checkpointing=False, learning_rate=0.0, beta=0.0,
                per_device_train_batch_size=len(run.groups[1]) * sampling.group_size,
                num_generations=sampling.group_size, max_completion_length=sampling.max_tokens,
                temperature=sampling.temperature, loss_type="dr_grpo", scale_rewards="none", max_steps=steps,
                report_to=[], save_strategy="no", disable_tqdm=True, logging_strategy="no", shuffle_dataset=False,
            ),
            train_dataset=Dataset.from_dict({"prompt": run.messages()}),
            peft_config=LoraConfig(r=shape.r, lora_alpha=shape.lora_alpha, target_modules="all-linear"),
        )  # fmt: skip
        load_adapter(trainer, run.start)
        trainer.train()
    # The first step warms up.
    return {
        "cpu_s": trainer.cpu_s[1:],
        "tokens": trainer.tokens[1:],
    }


def load_adapter(trainer: GRPOTrainer, folder: Path) -> None:
    """Begin where our run began, so that answers are as long."""
    set_peft_model_state_dict(trainer.model, load_file(folder / ADAPTER_FILES[1]))


async def main() -> None:
    async def steps(file: str, steps: int) -> dict[str, Any]:
        return train(read(file), steps + 1)

    await obey({"steps": steps})


if __name__ == "__main__":
    asyncio.run(main())
