"""Two hundred megabytes through the hub, and how much memory that takes."""

import asyncio
import filecmp
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

MOST_BYTES = 100 << 20
"""How much the hub, and the command, may take beyond what they take idle."""
ENTRY = """\
from envsdk import EnvironmentSingleTurn


class Echo(EnvironmentSingleTurn):
    dataset = [{"input": "a", "output": "a"}]

    def build_prompt_messages(self, example, prompt_text):
        return [{"role": "user", "content": example.input}]

    def score_response(self, example, response_text):
        return float(response_text == example.output)


def load_environment():
    return Echo()
"""


class Ended(NamedTuple):
    code: int
    peak_bytes: int


class Command:
    """`flash ...` as a process of its own."""

    def __init__(self, stack: Any, *words: str) -> None:
        env = {k: v for k, v in os.environ.items() if not k.startswith("FLASH_")} | {"FLASH_URL": stack.url}
        home = ("--home", str(stack.folder / "home"))
        with (stack.folder / "cli.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "cli", *words, *home], env=env, stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )

    async def ended(self) -> Ended:
        """Its peak is looked at for as long as it runs: what the system tells at its end counts us, who forked it."""
        peak_bytes = 0
        while self.process.poll() is None:
            peak_bytes = memory(self.process.pid).get("VmHWM", peak_bytes)
            await asyncio.sleep(0.02)
        return Ended(self.process.returncode, peak_bytes)


def memory(pid: int) -> dict[str, int]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {line.split(":")[0]: int(line.split()[1]) << 10 for line in lines if line.endswith(" kB")}


async def uploaded(stack: Any, parts: int) -> None:
    while True:
        if len([stat async for stat in stack.store.list("uploads/")]) >= parts:
            return
        await asyncio.sleep(0.05)


def large_folder(place: Path) -> Path:
    """200 MB, of which a quarter is left when they are packed."""
    place.mkdir()
    (place / "environment.py").write_text(ENTRY)
    for number in range(4):
        with (place / f"part{number}.txt").open("wb") as file:
            for _ in range(400):
                file.write((os.urandom(31_250).hex().encode() + b"\n") * 2)
    return place


@pytest.mark.slow
async def test_a_large_folder_is_pushed_in_little_memory_and_a_killed_push_goes_on(stacks: Any, tmp_path: Path) -> None:
    folder = large_folder(tmp_path / "large")
    (tmp_path / "stack").mkdir()
    async with stacks(tmp_path / "stack", "hub", "scorer") as stack:
        idle = await Command(stack, "env", "list").ended()
        hub = stack.pid("hub-1")
        hub_idle = memory(hub)["VmRSS"]

        killed = Command(stack, "env", "push", "--name", "large", str(folder))
        await uploaded(stack, parts=8)
        killed.process.kill()
        await killed.ended()
        pushed = await Command(stack, "env", "push", "--name", "large", str(folder)).ended()
        hub_peak = memory(hub)["VmHWM"]
        pulled = await Command(stack, "env", "pull", "large", str(tmp_path / "back")).ended()

        log = (stack.folder / "cli.log").read_text()
        assert (idle.code, pushed.code, pulled.code) == (0, 0, 0), log
        assert [stat async for stat in stack.store.list("uploads/")] == []
    assert filecmp.cmpfiles(folder, tmp_path / "back", os.listdir(folder), shallow=False)[1:] == ([], [])
    assert hub_peak - hub_idle < MOST_BYTES
    assert pushed.peak_bytes - idle.peak_bytes < MOST_BYTES
    assert pulled.peak_bytes - idle.peak_bytes < MOST_BYTES
