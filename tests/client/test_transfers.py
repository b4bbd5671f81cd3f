"""Bringing an environment's folder to the hub, and getting it back: flash/client/transfers.py."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from flash.artifacts import pack
from flash.bus.memory import MemoryBus
from flash.client.transfers import fetch_environment, publish_environment, publish_packed
from flash.contracts.hosting import CheckReport, EnvironmentCheck
from flash.contracts.keys import UPLOAD_PART_BYTES
from flash.contracts.requests import EnvironmentResolve, EnvironmentUpload
from flash.errors import Damaged, EnvironmentFault
from services.hub.service import Hub
from services.hub.settings import Settings


@pytest.fixture
async def bus() -> MemoryBus:
    bus = MemoryBus()
    hub = Hub(bus, bus.store, Settings(), now=lambda: 7.0)
    await bus.answer("hub", hub.answers())
    return bus


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "environment.py").write_text("def load_environment(): ...\n")
    (tmp_path / "dataset").mkdir()
    # Digits that do not compress, so that the archive has more than one part.
    rows = "".join(f'{{"input": "{i * 2654435761 % 2**32:x}{i * 40503 % 65521:x}"}}\n' for i in range(120_000))
    (tmp_path / "dataset" / "train.jsonl").write_text(rows)
    return tmp_path


async def sound(request: EnvironmentCheck) -> CheckReport:
    return CheckReport(rows={"train": 2})


async def test_a_folder_becomes_a_version_part_by_part(bus: MemoryBus, folder: Path) -> None:
    await bus.answer("scorer", {EnvironmentCheck: sound})
    progress: list[tuple[int, int]] = []
    packed = pack(folder)

    version = await publish_environment(
        bus, folder, "sums", progress=lambda done, total: progress.append((done, total))
    )

    assert version.digest == packed.digest
    assert len(progress) > 1
    assert progress[-1] == (len(packed.data), len(packed.data))
    assert await bus.store.get(version.key) == packed.data
    assert await bus.ask(EnvironmentResolve(reference="local/sums")) == version


async def test_with_no_scorer_up_the_push_waits_and_says_so(bus: MemoryBus, folder: Path) -> None:
    said: list[str] = []
    waits = asyncio.Event()

    def say(note: str) -> None:
        said.append(note)
        waits.set()

    pushing = asyncio.create_task(publish_packed(bus, pack(folder), "sums", say=say))
    await asyncio.wait_for(waits.wait(), 10)

    await bus.answer("scorer", {EnvironmentCheck: sound})

    assert (await asyncio.wait_for(pushing, 10)).id == "local/sums"
    assert said == ["waiting for the hub: no scorer is up to check the environment"]


async def test_a_push_that_was_broken_off_goes_on_with_what_is_missing(bus: MemoryBus, folder: Path) -> None:
    await bus.answer("scorer", {EnvironmentCheck: sound})
    packed = pack(folder)
    part = packed.part(0, UPLOAD_PART_BYTES)
    await bus.ask(EnvironmentUpload(org="local", environment="sums", digest=packed.digest, part=0, data=part))
    progress: list[int] = []

    version = await publish_packed(bus, packed, "sums", progress=lambda done, total: progress.append(done))
    again: list[int] = []
    await publish_packed(bus, packed, "sums", progress=lambda done, total: again.append(done))

    assert progress == [UPLOAD_PART_BYTES, packed.num_bytes]
    assert again == [packed.num_bytes], "the hub knows it: nothing is uploaded"
    assert await bus.store.get(version.key) == packed.data


async def test_a_folder_over_the_limits_of_the_hub_is_refused_before_anything_is_uploaded(folder: Path) -> None:
    bus = MemoryBus()
    hub = Hub(bus, bus.store, Settings(max_unpacked_bytes=1_000), now=lambda: 7.0)
    await bus.answer("hub", hub.answers())

    with pytest.raises(EnvironmentFault, match="at most 1,000 are taken"):
        await publish_environment(bus, folder, "sums")

    assert [stat async for stat in bus.store.list("")] == []


async def test_a_version_comes_back_as_it_was_published(bus: MemoryBus, folder: Path, tmp_path: Path) -> None:
    await bus.answer("scorer", {EnvironmentCheck: sound})
    version = await publish_environment(bus, folder, "sums")
    progress: list[tuple[int, int]] = []

    await fetch_environment(
        bus, version, tmp_path / "fetched", progress=lambda done, total: progress.append((done, total))
    )

    assert (tmp_path / "fetched/dataset/train.jsonl").read_bytes() == (folder / "dataset/train.jsonl").read_bytes()
    assert progress[-1] == (version.packed_bytes, version.packed_bytes)
    assert not (tmp_path / ".fetched.part").exists()


async def test_a_fetch_that_was_broken_off_goes_on_where_it_was(
    bus: MemoryBus, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bus.answer("scorer", {EnvironmentCheck: sound})
    packed = pack(folder)
    version = await publish_packed(bus, packed, "sums")
    (tmp_path / ".fetched.part").write_bytes(packed.part(0, 100_000))
    asked: list[int] = []
    stream = bus.stream

    def listened(request: Any, timeout_s: float = 60.0) -> Any:
        asked.append(request.start)
        return stream(request, timeout_s)

    monkeypatch.setattr(bus, "stream", listened)
    await asyncio.gather(*(fetch_environment(bus, version, tmp_path / "fetched") for _ in range(3)))

    assert asked == [100_000], "once, whoever asks"
    assert (tmp_path / "fetched/dataset/train.jsonl").read_bytes() == (folder / "dataset/train.jsonl").read_bytes()


async def test_other_bytes_than_were_published_are_thrown_away(bus: MemoryBus, folder: Path, tmp_path: Path) -> None:
    await bus.answer("scorer", {EnvironmentCheck: sound})
    version = await publish_environment(bus, folder, "sums")
    (tmp_path / ".fetched.part").write_bytes(b"not the beginning")

    with pytest.raises(Damaged):
        await fetch_environment(bus, version, tmp_path / "fetched")
    await fetch_environment(bus, version, tmp_path / "fetched")

    assert (tmp_path / "fetched/environment.py").exists()
