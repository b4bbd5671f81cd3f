"""A canary in a run's secrets: its environment prints it, raises it, returns it, and it lies nowhere afterwards."""

import asyncio
import json
import os
import secrets
import sys
import tarfile
import threading
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import nats
import pyarrow.parquet as pq
import pytest
import zstandard
from nats.js.errors import NotFoundError

from flash.bus import Bus
from flash.contracts.record import RecordClosed
from flash.contracts.runs import RunCompleted

TELLING = """
import os, sys
from envsdk import EnvironmentSingleTurn, RewardMetric, RewardResult

KEY = os.environ.get("CANARY_KEY", "no key")
print("loaded with", KEY)

class Telling(EnvironmentSingleTurn):
    dataset = [{"input": f"{n} {KEY}", "output": KEY, "metadata": {"key": KEY, KEY: n}} for n in range(8)]
    def build_prompt_messages(self, example, prompt_text):
        print("rendered with", KEY, file=sys.stderr)
        return [{"role": "user", "content": "Say " + KEY}]
    def score_response(self, example, text):
        os.write(2, f"scored with {KEY}".encode())
        if int(example.input.split()[0]) % 2:
            raise ValueError("refused: " + KEY)
        metrics = (RewardMetric(name=KEY, reason=repr(KEY), metadata={"key": [KEY]}),)
        return RewardResult(float(len(text) % 5), metadata={"key": KEY}, metrics=metrics, reason=KEY, error=KEY)

def load_environment():
    return Telling()
"""
CONFIG = """
model = "tiny"
algorithm = "grpo"
name = "{name}"
[environment]
id = "local/telling"
secrets = {secrets}
[train]
steps = 3
batch_size = 2
group_size = 4
max_tokens = 8
max_length = 256
max_faults = 1.0
lora_rank = 4
lora_alpha = 8
"""


@pytest.mark.slow
async def test_a_canary_among_the_secrets_lies_nowhere_after_a_whole_run(stack: Any, tmp_path: Path) -> None:
    canary = f"canary-{secrets.token_hex(16)}"
    project = tmp_path.parent / f"{tmp_path.name}-project"  # beside what is looked through: `.env` stands there
    project.mkdir()
    (project / "environment.py").write_text(TELLING)
    (project / ".env").write_text(f"CANARY_KEY={canary}\n")
    (project / "with.toml").write_text(CONFIG.format(name="with", secrets='["CANARY_KEY"]'))
    (project / "without.toml").write_text(CONFIG.format(name="without", secrets="[]"))
    done = threading.Event()
    watching = asyncio.create_task(asyncio.to_thread(seen_in_processes, canary.encode(), done))

    async with asyncio.timeout(120):
        while not {"rollout", "learner"} <= {replica.service for replica in await stack.bus.replicas(wait_s=0.3)}:
            pass
    facts: list[bytes] = []
    hearing = asyncio.create_task(heard(stack.bus, facts))
    try:
        told = [await flash(stack, project, "env", "push", "--name", "telling", "--config", "with.toml")]
        runs = {}
        evaluated = ["env", "eval", "telling", "-m", "tiny", "-r", "4", "--max-tokens", "8", "--config", "without.toml"]
        for name, words in {"with": ["train", "with.toml"], "without": evaluated}.items():
            told.append(await flash(stack, project, *words, "--json"))
            runs[name] = json.loads(told[-1][0])["run_id"]
            assert isinstance(await stack.outcome(runs[name]), RunCompleted)
            async with asyncio.timeout(60):
                async for _ in stack.bus.replay(RecordClosed.pattern(org="local", run_id=runs[name])):
                    break
        for about in ("rollouts", "status", "log", "trace"):
            told.append(await flash(stack, project, about, runs["with"], "--json"))
    finally:
        done.set()
        hearing.cancel()

    mask = "*" * len(canary)
    assert f"refused: {mask}" in told[3][0], "the environment had the secret, and it was masked"
    assert f"scored with {mask}".encode() in b"".join(facts)
    places = {**dict(files(stack.folder)), **dict(files(project)), **await messages(stack.url)}
    places["the command line"] = "".join(text for both in told for text in both).encode()
    places["facts that the record has taken over"] = b"\n".join(facts)
    assert b"scored with no key" in b"".join(facts), "the run that declared nothing had nothing"
    assert any(name.startswith("FLASH ") for name in places)
    assert any(name.startswith("KV_") for name in places)
    assert any(name.endswith(".parquet") for name in places)
    assert any(name.endswith(".safetensors") and "/checkpoints/" in name for name in places)
    assert [name for name, content in places.items() if canary.encode() in content] == []
    assert await watching == []
    assert core_bytes(stack._parts["scorer-1"].pid) in ("0", "1")


async def flash(stack: Any, project: Path, *words: str) -> tuple[str, str]:
    """What a command says, as a person types it."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FLASH_")}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-m", "cli", *words, cwd=project, stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=kept | {"FLASH_URL": stack.url, "FLASH_HOME": str(stack.folder / "home-of-the-person")},
    )  # fmt: skip
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return out.decode(), err.decode()


async def heard(bus: Bus, facts: list[bytes]) -> None:
    """Every fact as it is said, also those that the stream forgets once they are recorded."""
    async for entry in bus.entries("flash.>"):
        facts.append(entry.body)


def files(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Every file below, as it lies there and as whoever knows its format reads it."""
    for path in folder.rglob("*"):
        if not path.is_file() or path.name == ".env":
            continue
        data = path.read_bytes()
        yield str(path), data
        if path.suffix == ".parquet":
            yield f"rows of {path}", repr(pq.read_table(path).to_pylist()).encode()
        if path.suffix == ".zst":
            with tarfile.open(
                fileobj=BytesIO(zstandard.ZstdDecompressor().decompressobj().decompress(data))
            ) as archive:
                for member in archive:
                    inner = archive.extractfile(member)
                    yield f"{member.name} in {path}", inner.read() if inner else b""


async def messages(url: str) -> dict[str, bytes]:
    """Every message of every stream, those of the records among them: in the files they may be compressed."""
    connection = await nats.connect(url)
    stream = connection.jetstream()
    found: dict[str, bytes] = {}
    for about in await stream.streams_info():
        name = about.config.name
        for sequence in range(max(1, about.state.first_seq), about.state.last_seq + 1):
            try:
                message = await stream.get_msg(name, sequence)
            except NotFoundError:
                continue
            headers = repr(message.headers).encode()
            found[f"{name} {sequence} {message.subject}"] = headers + (message.data or b"")
    await connection.close()
    return found


def core_bytes(pid: int) -> str:
    """How large the core file may be that this process leaves when it crashes."""
    limits = Path(f"/proc/{pid}/limits").read_text().splitlines()
    return next(line.split()[4] for line in limits if line.startswith("Max core file size"))


def seen_in_processes(canary: bytes, done: threading.Event) -> list[str]:
    """Which process shows it to who lists processes, from now on until it is done."""
    seen: dict[str, None] = {}
    while not done.wait(0.05):
        for place in (*Path("/proc").glob("[0-9]*/cmdline"), *Path("/proc").glob("[0-9]*/environ")):
            try:
                if canary in place.read_bytes():
                    seen[f"{place}: {place.with_name('cmdline').read_bytes()!r}"] = None
            except OSError:
                continue
    return list(seen)
