"""What tests of several parts need."""

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from flash import logs
from flash.bus.server import NatsServer
from flash.host import InstallFailed, RequirementSets


@pytest.fixture(autouse=True)
def logging_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that a test types in this process wants nothing logged; the next test may."""
    monkeypatch.setattr(logs, "_is_silent", False)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[NatsServer]:
    """A real NATS server of the test's own: up in some 30 ms, and it may be killed and started again."""
    async with NatsServer(tmp_path / "nats") as made:
        yield made


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that stands for the package index, also for the processes that the test starts."""
    folder = tmp_path / "index"
    folder.mkdir()
    for name in [name for name in os.environ if name.startswith(("PIP_", "UV_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """CI has minutes: with a FLASH_CHAOS_SEED, each commit runs every fifth file of slow tests, whole.

    Not every fifth test: those of one file may follow one another, as steps of a walk do.
    """
    if (seed := os.environ.get("FLASH_CHAOS_SEED")) is None:
        return
    slow = [item for item in items if item.get_closest_marker("slow") and not item.get_closest_marker("long")]
    files = list(dict.fromkeys(item.path for item in slow))
    left = [item for item in slow if (files.index(item.path) + int(seed)) % 5]
    config.hook.pytest_deselected(items=left)
    items[:] = [item for item in items if item not in left]


SETS = Path(__file__).parents[1] / "bench" / ".venvs" / "sets"


@pytest.fixture
async def verifiers_set() -> Path:
    """The real `verifiers` package as a requirement set, installed once for all tests."""
    try:
        folder = await RequirementSets(SETS).folder(["verifiers==0.3.1"])
    except InstallFailed as failed:
        pytest.skip(f"verifiers==0.3.1 cannot be installed: {failed}")
    assert folder is not None
    return folder
