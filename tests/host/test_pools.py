"""Pools that an environment makes while it loads, used in its forks."""

from pathlib import Path

from flash.host import Host, HostSpec, Limits

CODE = """
import os, time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from envsdk import EnvironmentSingleTurn, RewardResult

THREADS = ThreadPoolExecutor(1)
THREADS.submit(int).result()  # its thread is not in any fork

class Pooled(EnvironmentSingleTurn):
    dataset = [{"input": "q"}]

    def __init__(self):
        self.processes = ProcessPoolExecutor(1)

    def build_prompt_messages(self, example, prompt_text):
        return [{"role": "user", "content": example.input}]

    def score_response(self, example, text):
        worth = self.processes.submit(len, text).result() + THREADS.submit(len, text).result()
        if text == "hang":
            time.sleep(60)
        return worth

def load_environment():
    return Pooled()
"""


async def test_every_fork_has_pools_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "environment.py").write_text(CODE)
    host = await Host.start(HostSpec(folder=tmp_path, limits=Limits(slots=2)))
    example = (await host.rows("train", 0, 1, "")).examples[0]

    # The pool's worker is killed with its fork, and while it waits for more it holds a lock of the pool's.
    for texts in (["a"], ["hang", "ab"], ["abc", "a"]):
        verdicts = await host.score(example, texts, deadline_s=3.0)
        for text, verdict in zip(texts, verdicts, strict=True):
            assert verdict.reward == (None if text == "hang" else 2 * len(text))
    await host.close()
