"""An exported checkpoint is the policy that was sampled from, wherever it is loaded."""

import json
import subprocess
import sys
from argparse import Namespace
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from cli.exporting import export
from flash.contracts.packing import unpack_floats, unpack_ids
from flash.models import folder
from services.recorder.service import Recorder
from services.recorder.settings import Settings as RecorderSettings
from tests.tiny_runs import grpo, published, trained

SORTING = Path(__file__).parent / "sorting"
RUN = "flash-1700000000-00000001"

ELSEWHERE = """
import json, sys
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

assert not any(name.split(".")[0] in ("flash", "services", "cli") for name in sys.modules)
asked = json.load(sys.stdin)
for folder in asked["folders"]:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    if folder == asked["base"]:
        with torch.no_grad():
            bare = model(torch.tensor([asked["rollouts"][0][0]])).logits
        model = PeftModel.from_pretrained(model, asked["folders"][0])
        with torch.no_grad():
            assert (model(torch.tensor([asked["rollouts"][0][0]])).logits - bare).abs().max() > 1e-2
    found = []
    for prompt, answer in asked["rollouts"]:
        with torch.no_grad():
            logits = model(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
        chosen = torch.log_softmax(logits.double(), -1).gather(1, torch.tensor(answer)[:, None])
        found.append(chosen[:, 0].tolist())
    shown = tokenizer.apply_chat_template([{"role": "user", "content": "Sort: 3 1 2"}], tokenize=False)
    print(json.dumps([found, shown, hasattr(model, "peft_config")]))
"""


def elsewhere(
    folders: list[Path], base: Path, rollouts: list[tuple[list[int], list[int]]]
) -> list[tuple[list[list[float]], str, bool]]:
    """For each folder the log-probabilities of answers, a rendered chat, and whether an adapter was found, in a process
    that knows nothing of ours. Last the same of the base, with peft putting the first folder's adapter on it.
    """
    places = [str(folder) for folder in (*folders, base)]
    asked = json.dumps({"folders": places, "base": str(base), "rollouts": rollouts})
    done = subprocess.run(
        [sys.executable, "-P", "-c", ELSEWHERE], input=asked, capture_output=True, text=True, cwd=folders[0]
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.slow
async def test_an_exported_checkpoint_gives_the_logprobs_with_which_it_was_sampled(
    running: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as bus:
        recorder = Recorder(bus, bus.store, RecorderSettings(home=tmp_path), now=lambda: 1.0)
        await bus.answer("recorder", recorder.answers())
        spec = grpo(await published(bus, SORTING), run_id=RUN, save_every=1, learning_rate=1e-2, max_lag=0)
        _, groups = await trained(bus, spec)

        @asynccontextmanager
        async def stack(options: Namespace) -> AsyncIterator[Any]:
            yield bus

        monkeypatch.setattr("cli.exporting.stack", stack)
        for name, merged in (("adapter", False), ("whole", True)):
            await export(
                Namespace(
                    reference=f"{RUN}/step-1", folder=tmp_path / name, merged=merged, force=False, repository="",
                    public=False, home=tmp_path, json=True,
                )
            )  # fmt: skip

    sampled = [group for group in groups if group.policy.version == 1]
    played = [(unpack_ids(g.prompt_ids), rollout) for g in sampled for rollout in g.rollouts]
    asked = [(prompt, unpack_ids(rollout.token_ids)) for prompt, rollout in played]
    recorded = [unpack_floats(rollout.logprobs) for _, rollout in played]
    (adapter, shown, has_adapter), (whole, shown_too, still_has_one), (by_peft, _, _) = elsewhere(
        [tmp_path / "adapter", tmp_path / "whole"], folder("tiny", tmp_path), asked
    )
    assert len(recorded) == 16, "every group of the second step came from the first one's policy"
    for ours, theirs, merged_in, put_on in zip(recorded, adapter, whole, by_peft, strict=True):
        assert theirs == pytest.approx(ours, abs=1e-4)
        assert merged_in == pytest.approx(theirs, abs=1e-4)
        assert put_on == pytest.approx(theirs, abs=1e-4)
    assert (has_adapter, still_has_one) == (True, False)
    assert shown == shown_too == "<|im_start|>user\nSort: 3 1 2<|im_end|>\n"
