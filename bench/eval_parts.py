"""Our side of `bench.eval`: `python -m bench.eval_parts URL COUNT TASK` plays `bench/TASK` as `flash env eval` does.

The host is the real one, every row is saved, and the progress is counted; only the bar is not drawn.
"""

import argparse
import asyncio
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.parts import ROOT, obey
from cli.endpoint import Endpoint
from cli.evaluation import SLOTS
from cli.playing import Plan, Player
from cli.results import Header, Row, Saved, Tally
from flash.host import Host, HostSpec, Limits


async def main(url: str, count: int, task: str) -> None:
    spec = HostSpec(folder=ROOT / "bench" / task, params={"count": count}, limits=Limits(slots=SLOTS))
    host = await Host.start(spec)

    async def play(rollouts: int, concurrency: int) -> dict[str, Any]:
        header = Header(
            environment="echo", digest="", split="train", reference="echo", examples=rollouts, rollouts_per_example=1
        )
        plan = Plan(
            model="echo", split="train", examples=rollouts, concurrency=concurrency, sampling={"temperature": 1.0}
        )
        endpoint, tally = Endpoint(url), Tally()
        with tempfile.TemporaryDirectory() as folder:
            begin = time.perf_counter()
            saved = Saved.new(Path(folder) / "rows.jsonl", header)

            def keep(rows: Sequence[Row]) -> None:
                saved.write(rows)
                for row in rows:
                    tally.add(row)

            await Player(host, endpoint, plan, keep).play()
            summary = tally.summary()
            saved.close()
            took_s = time.perf_counter() - begin
        await endpoint.close()
        assert (summary["rollouts"], summary["reward"], summary["faults"]) == (rollouts, 1.0, 0), summary
        return {"took_s": took_s}

    await obey({"play": play})
    await host.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="bench.eval_parts", description=__doc__)
    parser.add_argument("url")
    parser.add_argument("count", type=int)
    parser.add_argument("task")
    given = parser.parse_args()
    asyncio.run(main(given.url, given.count, given.task))
