"""Preparing a dataset of many rows: time and memory, beside reading the file in plain Python.

python -m bench.datasets [--rows N]

A scorer of its own process renders every chunk of a .jsonl file and puts it into a store in a folder, one request after
another, in the order in which a GRPO run asks for them. The floor parses each line, and does nothing with it.
"""

import argparse
import asyncio
import json
import random
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.eval import peak_mib
from bench.figures import cpu_s, last_line, show
from bench.parts import Part, end_in_order, obey, python
from flash.contracts.keys import DATASET_CHUNK
from flash.host import Host, HostSpec, Limits
from flash.store.files import FileStore
from services.scorer.scoring import encode_examples

CODE = """
from envsdk import EnvironmentSingleTurn

class Bare(EnvironmentSingleTurn):
    def build_prompt_messages(self, example, prompt_text):
        return [{"role": "user", "content": example.input}]
    def score_response(self, example, response_text):
        return 1.0

def load_environment():
    return Bare()
"""


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.datasets", description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        asyncio.run(serve(given.serve))
        return
    end_in_order()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        write(place, given.rows)
        began, cpu = time.perf_counter(), time.process_time()
        for line in (place / "dataset/train.jsonl").open():
            json.loads(line)
        floor_s, floor_cpu_s = time.perf_counter() - began, time.process_time() - cpu
        part = Part("scorer", python("bench.datasets", "--serve", folder), place / "log")
        try:
            before = cpu_s(part.pid)
            with peak_mib(part.pid) as peak:
                took = part.ask("prepare", rows=given.rows)
            spent_s = cpu_s(part.pid) - before
        finally:
            part.stop()
    megabytes = took["bytes"] / 2**20
    rows = [
        ("prepared", f"{took['took_s']:.1f}", f"{spent_s:.1f}", f"{1e6 * spent_s / given.rows:.0f}", f"{peak[0]:.0f}"),
        ("json.loads", f"{floor_s:.1f}", f"{floor_cpu_s:.1f}", f"{1e6 * floor_cpu_s / given.rows:.0f}", "-"),
    ]
    show(f"{given.rows:,} rows, {megabytes:.0f} MiB", ["what", "s", "CPU s", "CPU µs a row", "peak MiB"], rows)
    figures = {"rows": given.rows, "cpu_us_per_row": 1e6 * spent_s / given.rows, "rss_mib": peak[0]}
    print(last_line("datasets", **figures, took_s=took["took_s"], ratio_floor=spent_s / floor_cpu_s))


def write(place: Path, rows: int) -> None:
    (place / "dataset").mkdir()
    (place / "environment.py").write_text(CODE)
    with (place / "dataset/train.jsonl").open("w") as file:
        for n in range(rows):
            row = {"input": f"What is {n} + {n}? " + "Think of it. " * 8, "output": str(2 * n), "metadata": {"n": n}}
            file.write(json.dumps(row) + "\n")


async def serve(folder: Path) -> None:
    host = await Host.start(HostSpec(folder=folder, params={}, limits=Limits(slots=2)))
    store = FileStore(folder / "store")

    async def prepare(rows: int) -> dict[str, Any]:
        began, chunks = time.perf_counter(), -(-rows // DATASET_CHUNK)
        for chunk in [0, *random.Random(0).sample(range(1, chunks), chunks - 1)]:
            page = await host.rows("train", chunk * DATASET_CHUNK, DATASET_CHUNK, "")
            assert page.total == rows, page.total
            await store.put(f"datasets/{chunk}", encode_examples(page.examples))
        size = (folder / "dataset/train.jsonl").stat().st_size
        return {"took_s": time.perf_counter() - began, "bytes": size}

    await obey({"prepare": prepare})
    await host.close()


if __name__ == "__main__":
    main()
