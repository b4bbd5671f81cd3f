"""Adapters go out in stretches, and to their own organisation only."""

from typing import Any

import pytest

from flash.client.adapters import fetch_adapter
from flash.contracts.keys import adapter_key
from flash.contracts.record import AdapterFetch
from flash.contracts.values import PolicyRef
from flash.errors import Damaged, NotFound
from flash.store.whole import digest_of
from services.recorder.adapters import PART_BYTES, STRETCH_PARTS

WEIGHTS = bytes(range(256)) * (PART_BYTES * (STRETCH_PARTS + 2) // 256) + b"end"
DIGEST = digest_of(WEIGHTS)
POLICY = PolicyRef(version=1, key=adapter_key("r1", DIGEST), digest=DIGEST)


@pytest.fixture
async def kept(recording: Any) -> Any:
    """A run with one adapter."""
    await recording.own()
    await recording.store.put(f"{POLICY.key}/adapter_config.json", b"{}")
    await recording.store.put(f"{POLICY.key}/adapter_model.safetensors", WEIGHTS)
    await recording.bus.answer("recorder", recording.recorder().answers())
    return recording


async def test_an_adapter_arrives_whole_however_many_stretches_it_takes(kept: Any, tmp_path: Any) -> None:
    await fetch_adapter(kept.bus, POLICY, tmp_path)

    assert (tmp_path / "adapter_model.safetensors").read_bytes() == WEIGHTS
    assert (tmp_path / "adapter_config.json").read_bytes() == b"{}"


async def test_no_answer_is_larger_than_a_stretch(kept: Any) -> None:
    asked = AdapterFetch(org="local", run_id="r1", digest=DIGEST, file="adapter_model.safetensors")

    parts = [len(part.data) async for part in kept.bus.stream(asked, 5.0)]

    assert parts == [PART_BYTES] * STRETCH_PARTS


async def test_other_weights_than_were_told_are_not_taken(kept: Any, tmp_path: Any) -> None:
    await kept.store.put(f"{POLICY.key}/adapter_model.safetensors", WEIGHTS[:-1])

    with pytest.raises(Damaged, match="was told: export it again"):
        await fetch_adapter(kept.bus, POLICY, tmp_path)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"org": "other"}, "there is no run r1"),
        ({"run_id": "r2"}, "there is no run r2"),
        ({"digest": "0" * 64}, "r1 has no adapter 000000000000 any more"),
    ],
)
async def test_what_is_not_there_or_somebody_elses_is_not_found(
    kept: Any, fields: dict[str, Any], message: str
) -> None:
    told = {"org": "local", "run_id": "r1", "digest": DIGEST, "file": "adapter_config.json"} | fields

    with pytest.raises(NotFound, match=message):
        [part async for part in kept.bus.stream(AdapterFetch(**told), 5.0)]
