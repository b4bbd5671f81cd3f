"""The files of an adapter, over the bus."""

import asyncio
import hashlib
from pathlib import Path

from flash.bus import Bus
from flash.client.asking import Say, gathered, silence
from flash.contracts.keys import run_of_adapter
from flash.contracts.record import AdapterFetch
from flash.contracts.values import PolicyRef
from flash.errors import Damaged

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


async def fetch_adapter(bus: Bus, policy: PolicyRef, into: Path, *, say: Say = silence) -> None:
    """Lay an adapter's two files into a folder. Raises NotFound, and Damaged for other weights than were told."""
    for name in (CONFIG, WEIGHTS):
        with (into / name).open("wb") as file:
            while data := await _stretch(bus, policy, name, file.tell(), say):
                await asyncio.to_thread(file.write, data)
    with (into / WEIGHTS).open("rb") as file:
        found = (await asyncio.to_thread(hashlib.file_digest, file, "sha256")).hexdigest()
    if found != policy.digest:
        raise Damaged(f"the adapter has digest {found[:12]}, but {policy.digest[:12]} was told: export it again")


async def _stretch(bus: Bus, policy: PolicyRef, name: str, start: int, say: Say) -> bytes:
    asked = AdapterFetch(
        org=bus.org, run_id=run_of_adapter(policy.key), digest=policy.digest, file=name, start=start  # type: ignore[arg-type]
    )  # fmt: skip
    return b"".join(part.data for part in await gathered(bus, asked, timeout_s=60.0, say=say))
