"""The floor of a GRPO step: transformers, PEFT and torch in one process, nothing computed twice, no platform around.

`python -m bench.plain`, driven by `bench.step`. It gets the groups of the steps that a run has taken, and does the same
work on the same tokens: samples all groups of a step in one batch (the prompt prefilled once a group, finished rows
dropped), then updates over [prompt, answer 1, ..., answer G] under a 4-D mask with logits on answer tokens only, groups
without variance skipped. Each token is drawn, and then the recorded one is taken, so that both sides compute the same
shapes; the logprobs must be the recorded ones, so that neither side wins by computing something else.

Legend: a group is a prompt and its G answers.
"""

import asyncio
import time
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel, set_peft_model_state_dict
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy, log_softmax
from transformers import AutoModelForCausalLM, DynamicCache

from bench.parts import obey
from bench.taken import ADAPTER_FILES, Group, Run, plain, read


@dataclass(frozen=True)
class Work:
    """What one step took."""

    sample_cpu_s: float
    update_cpu_s: float
    wall_s: float
    logprob_gap: float


class Plain:
    """A model with one adapter and its optimiser, which takes the steps of a run again."""

    def __init__(self, run: Run) -> None:
        torch.set_num_threads(1)
        base = AutoModelForCausalLM.from_pretrained(run.model, dtype=torch.float32, attn_implementation="sdpa")
        assert run.spec.train is not None
        assert run.spec.sampling is not None
        self._run = run
        self._max_tokens = run.spec.sampling.max_tokens
        self.model: Any = PeftModel.from_pretrained(base, str(run.start), is_trainable=True).eval()
        self._params = [p for p in self.model.parameters() if p.requires_grad]
        learning_rate = run.spec.train.learning_rate
        self._optimiser = torch.optim.AdamW(self._params, lr=learning_rate, weight_decay=0.0, fused=True)

    def step(self, number: int) -> Work:
        scored = self._run.groups[number]
        sampled_by = scored[0].policy.digest
        weighed = {group.group: group.advantages for group in self._run.finished[number].groups}
        groups = [plain(group, weighed[group.group]) for group in scored]
        set_peft_model_state_dict(self.model, load_file(self._run.adapter(sampled_by) / ADAPTER_FILES[1]))
        wall, begin = time.perf_counter(), time.process_time()
        logprobs = self.sample([group.prompt for group in groups], [group.answers for group in groups])
        sampled = time.process_time()
        self.update(groups)
        updated = time.process_time()
        wall_s = time.perf_counter() - wall
        same = [
            (g.logprobs, f) for g, s, f in zip(groups, scored, logprobs, strict=True) if s.policy.digest == sampled_by
        ]
        gap = max(
            abs(a - b)
            for theirs, found in same
            for x, y in zip(theirs, found, strict=True)
            for a, b in zip(x, y, strict=True)
        )
        return Work(sampled - begin, updated - sampled, wall_s, gap)

    @torch.inference_mode()
    def sample(self, prompts: list[list[int]], wanted: list[list[list[int]]]) -> list[list[list[float]]]:
        """Logprobs of each answer's tokens, of each group."""
        cache, logits, seen, pos = self._prefill(prompts, len(wanted[0]))
        answers = [answer for group in wanted for answer in group]
        found: list[list[float]] = [[] for _ in answers]
        live = list(range(len(answers)))
        for t in range(max(map(len, answers))):
            logp = log_softmax(logits, -1)
            torch.multinomial(logp.exp(), 1)  # what would be drawn; the recorded tokens are taken
            taken = torch.tensor([[answers[row][t]] for row in live])
            for row, value in zip(live, logp.gather(1, taken)[:, 0].tolist(), strict=True):
                found[row].append(value)
            keep = [i for i, row in enumerate(live) if len(answers[row]) > t + 1]
            if not keep:
                break
            if len(keep) < len(live):
                index = torch.tensor(keep)
                cache.batch_select_indices(index)
                live, taken, seen, pos = [live[i] for i in keep], taken[index], seen[index], pos[index]
            seen, pos = torch.cat([seen, seen.new_ones(len(live), 1)], 1), pos + 1
            logits = self.model(input_ids=taken, attention_mask=seen, position_ids=pos, past_key_values=cache).logits[
                :, -1
            ]
        size = len(wanted[0])
        return [found[at : at + size] for at in range(0, len(found), size)]

    def _prefill(self, prompts: list[list[int]], copies: int) -> tuple[Any, torch.Tensor, torch.Tensor, torch.Tensor]:
        width = max(map(len, prompts))
        ids = torch.tensor([[0] * (width - len(p)) + p for p in prompts])
        seen = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
        pos = (seen.cumsum(1) - 1).clamp(min=0)
        cache = DynamicCache(config=self.model.config)
        logits = self.model(
            input_ids=ids, attention_mask=seen, position_ids=pos, past_key_values=cache, logits_to_keep=1
        ).logits[:, -1]
        cache.batch_repeat_interleave(copies)
        logits, seen, pos = (x.repeat_interleave(copies, 0) for x in (logits, seen, pos[:, -1:]))
        return cache, logits, seen, pos

    def update(self, groups: list[Group]) -> None:
        """One step of the optimiser over the groups that have variance."""
        live = [group for group in groups if any(group.advantages)]
        normaliser = self._max_tokens * sum(len(group.answers) for group in groups)
        for group in live:
            kept = [i for i, taught in enumerate(group.taught) if taught]
            if not kept:
                continue
            answers = [group.answers[i] for i in kept]
            logp = self._packed(group.prompt, answers)
            sampler = torch.tensor([x for i in kept for x in group.logprobs[i]])
            weight = torch.tensor([group.advantages[i] for i in kept])
            weight = weight.repeat_interleave(torch.tensor([len(answer) for answer in answers]))
            correction = (logp.detach() - sampler).exp().clamp(max=2.0)
            ratio = (logp - logp.detach()).exp()
            (-(correction * ratio * weight).sum() / normaliser).backward()
        if live:
            torch.nn.utils.clip_grad_norm_(self._params, 1.0)
            self._optimiser.step()
            self._optimiser.zero_grad()

    def _packed(self, prompt: list[int], answers: list[list[int]]) -> torch.Tensor:
        """Logprobs of each answer's tokens after one prompt, in one sequence; flat, in order."""
        p = len(prompt)
        # Each answer but its last token is an input; the prompt's last token predicts every first one.
        ids = prompt + [token for answer in answers for token in answer[:-1]]
        pos = list(range(p)) + [p + i for answer in answers for i in range(len(answer) - 1)]
        owner = torch.tensor([-1] * p + [k for k, answer in enumerate(answers) for _ in answer[:-1]])
        causal = torch.ones(len(ids), len(ids), dtype=torch.bool).tril()
        mask = causal & ((owner[None, :] == -1) | (owner[None, :] == owner[:, None]))
        index, target, at = [], [], p
        for answer in answers:
            index += [p - 1, *range(at, at + len(answer) - 1)]
            target += answer
            at += len(answer) - 1
        logits = self.model(
            input_ids=torch.tensor([ids]), attention_mask=mask[None, None], position_ids=torch.tensor([pos]),
            use_cache=False, logits_to_keep=torch.tensor(index),
        ).logits[0]  # fmt: skip
        return -cross_entropy(logits, torch.tensor(target), reduction="none")


async def main() -> None:
    async def steps(file: str) -> dict[str, Any]:
        """The steps of a run, one after another."""
        run = read(file)
        floor = Plain(run)
        found = [floor.step(number) for number in run.groups]
        return {
            "sample_cpu_s": sum(work.sample_cpu_s for work in found),
            "update_cpu_s": sum(work.update_cpu_s for work in found),
            "wall_s": sum(work.wall_s for work in found),
            "logprob_gap": max(work.logprob_gap for work in found),
        }

    await obey({"steps": steps})


if __name__ == "__main__":
    asyncio.run(main())
