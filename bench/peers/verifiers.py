"""The peers for evaluating: verifiers' own `evaluate`, and aiohttp with nothing around it.

`python -m bench.peers.verifiers evaluate|aiohttp URL COUNT` runs on the interpreter of `bench/.venvs/verifiers-0.3.1`,
so it imports verifiers, aiohttp, and nothing of ours but `bench.parts`. The task is that of `bench/echo`. What is in
verifiers' favour: rollouts are scored one by one, its fastest way; nothing is saved; its client may have a connection
for each question in flight; the environment is made, and its rows are rendered, beforehand.
"""

import argparse
import asyncio
import os
import subprocess
import time
import venv
from typing import Any

from bench.parts import ROOT, obey

VERSION = "0.3.1"
FOLDER = ROOT / "bench" / ".venvs" / f"verifiers-{VERSION}"
WORDS = ["alpha", "bravo", "charlie", "delta", "echo", "foxtrot", "golf", "hotel", "india", "juliet", "kilo", "lima"]


def interpreter() -> str:
    """The Python of the peer's own virtual environment, made when it is not there."""
    python = FOLDER / "bin" / "python"
    check = f"import aiohttp, importlib.metadata as m; assert m.version('verifiers') == '{VERSION}'"
    if not python.exists() or subprocess.run([str(python), "-c", check], stderr=subprocess.DEVNULL).returncode:
        venv.create(FOLDER, with_pip=True, clear=True)
        install = ["-m", "pip", "install", "-q", "--disable-pip-version-check", f"verifiers=={VERSION}", "aiohttp"]
        subprocess.run([str(python), *install], check=True)
    return str(python)


def rows(count: int) -> list[dict[str, str]]:
    texts = [f"{i}: " + " ".join(WORDS[(i * 7 + k) % 12] for k in range(24)) for i in range(count)]
    return [{"question": text, "answer": WORDS[i % 12]} for i, text in enumerate(texts)]


def environment(count: int) -> Any:
    import verifiers as vf
    from datasets import Dataset

    parser = vf.Parser()

    async def contains(completion: Any, answer: str, parser: Any) -> float:
        return 1.0 if answer in (parser.parse_answer(completion) or "") else 0.0

    def length(completion: Any) -> float:
        return float(len(completion[-1]["content"]))

    rubric = vf.Rubric(funcs=[contains, length], weights=[1.0, 0.0], parser=parser)
    data = Dataset.from_list(rows(count))
    found = vf.SingleTurnEnv(dataset=data, parser=parser, rubric=rubric, system_prompt="Repeat the text.")
    found.get_dataset()
    return found


async def _evaluate(url: str, count: int) -> None:
    from verifiers.types import ClientConfig

    env = environment(count)

    async def play(rollouts: int, concurrency: int) -> dict[str, Any]:
        client = ClientConfig(
            api_base_url=url, api_key_var="OPENAI_API_KEY", client_type="openai_chat_completions",
            max_connections=concurrency, max_keepalive_connections=concurrency,
        )  # fmt: skip
        begin = time.perf_counter()
        found = await env.evaluate(
            client=client, model="echo", num_examples=rollouts, rollouts_per_example=1, max_concurrent=concurrency,
            independent_scoring=True, on_progress=lambda *_: None,
        )  # fmt: skip
        took_s = time.perf_counter() - begin
        rewards = [output["reward"] for output in found["outputs"]]
        assert len(rewards) == rollouts, len(rewards)
        assert set(rewards) == {1.0}, set(rewards)
        return {"took_s": took_s}

    await obey({"play": play})


async def _aiohttp(url: str, count: int) -> None:
    import aiohttp

    prompts = [
        [{"role": "system", "content": "Repeat the text."}, {"role": "user", "content": row["question"]}]
        for row in rows(count)
    ]

    async def play(rollouts: int, concurrency: int) -> dict[str, Any]:
        waiting = iter(prompts[:rollouts])

        async def ask(session: aiohttp.ClientSession) -> None:
            for messages in waiting:
                body = {"model": "echo", "messages": messages, "temperature": 1.0}
                async with session.post(f"{url}/chat/completions", json=body) as reply:
                    assert (await reply.json())["choices"][0]["message"]["content"]

        begin = time.perf_counter()
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=concurrency)) as session:
            await asyncio.gather(*(ask(session) for _ in range(concurrency)))
        return {"took_s": time.perf_counter() - begin}

    await obey({"play": play})


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.peers.verifiers", description=__doc__)
    parser.add_argument("side", choices=["evaluate", "aiohttp"])
    parser.add_argument("url")
    parser.add_argument("count", type=int)
    given = parser.parse_args()
    os.environ.setdefault("OPENAI_API_KEY", "EMPTY")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("VF_LOG_LEVEL", "ERROR")
    asyncio.run({"evaluate": _evaluate, "aiohttp": _aiohttp}[given.side](given.url, given.count))


if __name__ == "__main__":
    main()
