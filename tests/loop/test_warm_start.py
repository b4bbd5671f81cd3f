"""Runs that go on from what other runs have saved: SFT, then GRPO, then GRPO again, by every name a checkpoint has."""

from pathlib import Path
from typing import Any

from flash.client import resolve_reference
from flash.config.resolving import WarmStart, resolve
from flash.config.run import checked
from flash.contracts.requests import EnvironmentVersion
from flash.contracts.spec import EnvironmentSpec
from flash.contracts.values import PolicyRef
from services.recorder.service import Recorder
from services.recorder.settings import Settings as RecorderSettings
from tests.tiny_runs import published, trained

SORTING = Path(__file__).parent / "sorting"
SFT, GRPO, AGAIN = (f"flash-170000000{n}-0000000{n}" for n in range(3))
SMALL = {"save_every": 1, "batch_size": 4}


async def ran(bus: Any, environment: EnvironmentSpec, run_id: str, algorithm: str, **train: Any) -> list[PolicyRef]:
    """The policy after each step, of a run as `flash train` makes it."""
    config = checked(
        {"model": "tiny", "algorithm": algorithm, "environment": {"id": environment.id}, "train": SMALL | train}
    )
    version = EnvironmentVersion(
        id=environment.id, version=environment.version, digest=environment.digest, key=environment.key,
        packed_bytes=0, published_at=0.0,
    )  # fmt: skip
    warm_start = None
    if begin := config.train.init_from_adapter:
        start = await resolve_reference(bus, begin)
        warm_start = WarmStart(start.text, start.policy, start.model, start.lora_rank, start.lora_alpha)
    spec = resolve(config, version, run_id=run_id, warm_start=warm_start)
    assert spec.train is not None
    assert (spec.train.lora_rank, spec.train.lora_alpha) == (8, 16)
    steps, _ = await trained(bus, spec)
    return [step.policy for step in steps]


async def test_a_run_begins_with_the_very_adapter_that_it_names(running: Any, tmp_path: Path) -> None:
    async with running(tmp_path) as bus:
        recorder = Recorder(bus, bus.store, RecorderSettings(home=tmp_path), now=lambda: 1.0)
        await bus.answer("recorder", recorder.answers())
        environment = await published(bus, SORTING)

        sft = await ran(bus, environment, SFT, "sft", max_steps=2, lora_rank=8, lora_alpha=16)
        few = {"steps": 2, "group_size": 4, "max_tokens": 12, "max_length": 128}
        grpo = await ran(bus, environment, GRPO, "grpo", init_from_adapter=SFT, **few)
        final = await ran(bus, environment, AGAIN, "grpo", init_from_adapter=f"{GRPO}/final", **few | {"steps": 1})
        step = await ran(bus, environment, AGAIN[:-1] + "9", "sft", init_from_adapter=f"{SFT}/step-1", max_steps=1)

    assert [policy.version for policy in grpo] == [0, 1, 2]
    assert (grpo[0].digest, final[0].digest, step[0].digest) == (sft[2].digest, grpo[2].digest, sft[1].digest)
    assert len({policy.digest for policy in (*sft, *grpo)}) == 5, "every step taught something"
    assert grpo[0].key.startswith(f"runs/{GRPO}/"), "a run keeps its own copy of what it began with"
