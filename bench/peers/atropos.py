"""The peer for transport: Atropos' trajectory API server, who posts groups to it, and who fetches batches from it.

`python -m bench.peers.atropos post|fetch URL` runs on the interpreter of `bench/.venvs/atropos`, so it imports aiohttp
and nothing of ours but `bench.parts`. A group is what Atropos' own environments send: tokens, masks, sampler logprobs,
scores. Its JSON is made beforehand, which is in the peer's favour.
"""

import argparse
import asyncio
import json
import random
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.parts import ROOT, START_S, end, obey

FOLDER = ROOT / "bench" / ".venvs" / "atropos"
REQUIREMENTS = Path(__file__).with_suffix(".txt")

ROLLOUTS, TOKENS, PROMPT_TOKENS = 8, 512, 128
BATCH_ROLLOUTS = 256
"""What the trainer fetches at once; a round must hold whole batches."""
IN_FLIGHT = 4
"""Posts under way; more make the server slower."""


def interpreter() -> str:
    """The Python of the peer's own virtual environment, made when it is not there."""
    python, wanted = FOLDER / "bin" / "python", REQUIREMENTS.read_text()
    mark = FOLDER / "installed.txt"
    if not mark.exists() or mark.read_text() != wanted:
        venv.create(FOLDER, with_pip=True, clear=True)
        install = ["-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-deps", "-r", str(REQUIREMENTS)]
        subprocess.run([str(python), *install], check=True)
        mark.write_text(wanted)
    return str(python)


@contextmanager
def server() -> Iterator[tuple[str, int]]:
    """Its URL and process id. Started as it ships: one worker, because its queue lives in the process."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    command = [interpreter(), "-m", "uvicorn", "atroposlib.api.server:app", "--host", "127.0.0.1", "--port", str(port)]
    process = subprocess.Popen([*command, "--log-level", "warning"], cwd=ROOT, stdout=subprocess.DEVNULL)
    try:
        url = f"http://127.0.0.1:{port}"
        _wait_for(url)
        yield url, process.pid
    finally:
        end(process)


def group(number: int, rng: random.Random) -> dict[str, Any]:
    prompt = [rng.randrange(150_000) for _ in range(PROMPT_TOKENS)]
    answers = [[rng.randrange(150_000) for _ in range(TOKENS - PROMPT_TOKENS)] for _ in range(ROLLOUTS)]
    return {
        "tokens": [prompt + answer for answer in answers],
        "masks": [[-100] * PROMPT_TOKENS + answer for answer in answers],
        "inference_logprobs": [[1.0] * PROMPT_TOKENS + [-rng.expovariate(1.0) for _ in answer] for answer in answers],
        "scores": [rng.random() for _ in answers],
        "group_overrides": {"uid": number},
    }


def _wait_for(url: str) -> None:
    deadline = time.monotonic() + START_S
    while True:
        try:
            urllib.request.urlopen(url, timeout=1.0).read()
            return
        except (urllib.error.URLError, OSError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


async def _post(url: str) -> None:
    import aiohttp

    # uvicorn drops idle connections after 5 s
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(keepalive_timeout=2)) as session:
        register = {"max_token_length": TOKENS, "desired_name": "bench", "weight": 1.0, "group_size": ROLLOUTS}
        async with session.post(f"{url}/register-env", json=register) as reply:
            environment = (await reply.json())["env_id"]
        bodies: list[bytes] = []

        async def prepare(groups: int) -> dict[str, Any]:
            rng = random.Random(len(bodies))
            bodies[:] = [json.dumps({**group(i, rng), "env_id": environment}).encode() for i in range(groups)]
            return {"body_bytes": sum(map(len, bodies)) / len(bodies)}

        async def go() -> dict[str, Any]:
            waiting = iter(bodies)
            await asyncio.gather(*(worker(waiting) for _ in range(IN_FLIGHT)))
            return {}

        async def worker(waiting: Iterator[bytes]) -> None:
            for body in waiting:
                headers = {"content-type": "application/json"}
                async with session.post(f"{url}/scored_data", data=body, headers=headers) as reply:
                    reply.raise_for_status()
                    await reply.read()

        await obey({"prepare": prepare, "go": go})


async def _fetch(url: str) -> None:
    import aiohttp

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(keepalive_timeout=2)) as session:
        register = {
            "wandb_group": "g", "wandb_project": "p", "batch_size": BATCH_ROLLOUTS, "max_token_len": TOKENS,
            "checkpoint_dir": "", "save_checkpoint_interval": 0, "starting_step": 0, "num_steps": 10**9,
        }  # fmt: skip
        async with session.post(f"{url}/register", json=register) as reply:
            await reply.read()
        async with session.get(f"{url}/batch") as reply:  # environments may register once a batch was asked for
            await reply.read()

        async def fetch(groups: int, headers: dict[str, str]) -> dict[str, Any]:
            """Ask until every group has come."""
            seen: list[int] = []
            while len(seen) < groups:
                async with session.get(f"{url}/batch", headers=headers) as reply:
                    batch = json.loads(await reply.read())["batch"]
                if batch is None:
                    await asyncio.sleep(0.005)
                    continue
                seen += [g["group_overrides"]["uid"] for g in batch]
            return {"once_each": sorted(seen) == list(range(groups))}

        await obey({"fetch": fetch})


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("role", choices=["post", "fetch"])
    parser.add_argument("url")
    given = parser.parse_args(sys.argv[1:])
    asyncio.run({"post": _post, "fetch": _fetch}[given.role](given.url))
