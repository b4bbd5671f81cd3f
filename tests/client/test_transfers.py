"""Bringing an environment's folder to the hub, and getting it back: flash/client/transfers.py."""

import asyncio
from pathlib import Path

import pytest

from flash.artifacts import pack
from flash.bus.memory import MemoryBus
from flash.client.transfers import fetch_environment, publish_environment, publish_packed
from flash.contracts.requests import CheckReport, EnvironmentCheck, EnvironmentResolve
from services.hub.service import Hub
from services.hub.settings import Settings


@pytest.fixture
async def bus() -> MemoryBus:
    bus = MemoryBus()
    hub = Hub(bus, bus.store, bus.records("environments"), Settings(), now=lambda: 7.0)
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


async def test_a_version_comes_back_as_it_was_published(bus: MemoryBus, folder: Path, tmp_path: Path) -> None:
    await bus.answer("scorer", {EnvironmentCheck: sound})
    version = await publish_environment(bus, folder, "sums")
    progress: list[tuple[int, int]] = []

    await fetch_environment(
        bus, version, tmp_path / "fetched", progress=lambda done, total: progress.append((done, total))
    )

    assert (tmp_path / "fetched/dataset/train.jsonl").read_bytes() == (folder / "dataset/train.jsonl").read_bytes()
    assert len(progress) > 1
    assert progress[-1] == (version.packed_bytes, version.packed_bytes)
