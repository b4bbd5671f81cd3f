"""Finding rollouts of a run of 100,000 through the recorder, beside DuckDB alone on the same files.

    python -m bench.rollouts

A record is written as the recorder writes it. Each question goes over a bus to a recorder (whose DuckDB works in a
fenced process) and, as the floor, straight to a DuckDB in this process that is given the same SQL.

    p50_ms       of the slowest question, over the bus, in wall time
    cpu_ms       of the slowest question, both processes of the recorder
    floor_ratio  ours / floor, CPU seconds, over all questions
    rss_mib      the most that the fenced process held
    write_per_s  rollouts that are written down in a CPU second
"""

import argparse
import asyncio
import itertools
import os
import random
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from glob import glob
from pathlib import Path
from statistics import median

import duckdb
import msgspec
import psutil

from bench.figures import cpu_s, last_line, show
from flash.bus import Entry
from flash.bus.memory import MemoryBus
from flash.contracts.groups import GroupScored
from flash.contracts.keys import record_key, spec_key
from flash.contracts.packing import pack_floats, pack_ids
from flash.contracts.record import RolloutsFind
from flash.contracts.values import Example, Metric, PolicyRef, Rollout, Verdict
from flash.store import Store, open_store
from services.recorder.parquet import ScoredGroup, rollouts_file
from services.recorder.query import SHOWN, query
from services.recorder.service import Recorder
from services.recorder.settings import Settings

GROUP, GROUPS_A_STEP, GROUPS_A_SEGMENT = 8, 64, 360
PROMPT_WORDS, ANSWER_WORDS, ANSWER_TOKENS = 40, 150, 200
ORG, RUN = "local", "r1"

QUESTIONS = {
    "as played": RolloutsFind(org=ORG, run_id=RUN),
    "a step": RolloutsFind(org=ORG, run_id=RUN, step=77),
    "best first": RolloutsFind(org=ORG, run_id=RUN, min_reward=0.5, sort=["-reward", "step"]),
    "worst, page 100": RolloutsFind(org=ORG, run_id=RUN, sort=["reward"], offset=2_000),
    "a condition": RolloutsFind(
        org=ORG, run_id=RUN, where="advantage > 0 AND policy_version % 7 = 0", sort=["-advantage"]
    ),
    "attempts at a row": RolloutsFind(org=ORG, run_id=RUN, example="row-42", sort=["step"]),
}


@dataclass(frozen=True)
class Turn:
    """One question, answered once."""

    wall_s: float
    cpu_s: float


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rollouts", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=5)
    return parser


def groups(count: int) -> Iterator[ScoredGroup]:
    """Groups of a run, with texts that do not repeat."""
    rng = random.Random(0)
    words = ["".join(rng.choices("abcdefghij", k=rng.randint(2, 9))) for _ in range(5_000)]
    for number in range(count):
        step, group = number // GROUPS_A_STEP + 1, number % GROUPS_A_STEP
        rollouts = [
            Rollout(
                token_ids=pack_ids(rng.choices(range(150_000), k=ANSWER_TOKENS)),
                logprobs=pack_floats([-rng.random() for _ in range(ANSWER_TOKENS)]),
                mask=b"\1" * ANSWER_TOKENS,
                text=" ".join(rng.choices(words, k=ANSWER_WORDS)),
            )
            for _ in range(GROUP)
        ]
        rewards = [rng.random() for _ in range(GROUP)]
        scored = GroupScored(
            org=ORG, run_id=RUN, scope="train", step=step, group=group, policy=PolicyRef(version=step - 1),
            example=Example(
                index=number % 500, id=f"row-{number % 500}", input="",
                messages=[{"role": "user", "content": " ".join(rng.choices(words, k=PROMPT_WORDS))}],
            ),
            prompt_ids=pack_ids(rng.choices(range(150_000), k=60)), rollouts=rollouts,
            verdicts=[Verdict(reward=reward, metrics=[Metric(name="exact", score=reward)]) for reward in rewards],
        )  # fmt: skip
        mean = sum(rewards) / GROUP
        entry = Entry(number + 1, 0.0, scored.subject, "", "", scored.encode())
        yield ScoredGroup(entry, [reward - mean for reward in rewards])


async def main(options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as place:
        store = await open_store(f"file://{place}/store")
        written_s = await write(store, options.rollouts)
        bus = MemoryBus(store)
        recorder = Recorder(bus, store, Settings(home=Path(place)), now=time.time)
        recorder.writer.book.forget(options.rollouts)  # it knows that everything is written
        await bus.answer("recorder", recorder.answers())
        await bus.ask(QUESTIONS["as played"], 120.0)  # the segments are fetched, once
        [fenced] = psutil.Process().children()
        files = sorted(glob(f"{place}/record/copies/**/*.parquet", recursive=True))
        ours: dict[str, list[Turn]] = {name: [] for name in QUESTIONS}
        floors: dict[str, list[Turn]] = {name: [] for name in QUESTIONS}
        most_bytes = 0
        for _ in range(options.rounds):
            for name, question in QUESTIONS.items():
                ours[name].append(await asked(bus, question))
                floors[name].append(floor(question, files))
                most_bytes = max(most_bytes, fenced.memory_info().rss)
        await recorder.close()
    tell(options.rollouts, ours, floors)
    spent_s = {name: median(turn.cpu_s for turn in turns) for name, turns in ours.items()}
    print(
        last_line(
            "rollouts",
            p50_ms=1e3 * max(median(turn.wall_s for turn in turns) for turns in ours.values()),
            cpu_ms=1e3 * max(spent_s.values()),
            floor_ratio=sum(spent_s.values()) / sum(median(t.cpu_s for t in turns) for turns in floors.values()),
            rss_mib=most_bytes / 2**20,
            write_per_s=options.rollouts / written_s,
        )
    )


async def write(store: Store, count: int) -> float:
    """A run's record; gives the CPU seconds that its rollouts took to become Parquet."""
    await store.put(spec_key(RUN), msgspec.json.encode({"org": ORG}))
    written_s, first = 0.0, 1
    coming = groups(count // GROUP)
    while segment := list(itertools.islice(coming, GROUPS_A_SEGMENT)):
        began = time.process_time()
        data = rollouts_file(segment)
        written_s += time.process_time() - began
        await store.put(record_key(RUN, "rollouts", first, first + len(segment) - 1), data)
        first += len(segment)
    return written_s


def tell(count: int, ours: dict[str, list[Turn]], floors: dict[str, list[Turn]]) -> None:
    rows = [
        [
            name,
            f"{1e3 * median(turn.wall_s for turn in ours[name]):.0f}",
            f"{1e3 * median(turn.cpu_s for turn in ours[name]):.0f}",
            f"{1e3 * median(turn.cpu_s for turn in floors[name]):.0f}",
        ]
        for name in ours
    ]
    show(f"{count:,} rollouts", ["question", "ms", "CPU ms", "DuckDB alone, CPU ms"], rows)


async def asked(bus: MemoryBus, question: RolloutsFind) -> Turn:
    before, began = cpu_s(os.getpid()), time.perf_counter()
    page = await bus.ask(question, 120.0)
    turn = Turn(time.perf_counter() - began, cpu_s(os.getpid()) - before)
    assert page.rollouts, "a question without an answer measures nothing"
    return turn


def floor(question: RolloutsFind, files: list[str]) -> Turn:
    columns = ", ".join(f'"{name}"' for name in SHOWN)
    wanted = query(question, files, within_s=60.0, columns=columns, limit=question.limit, offset=question.offset)
    began, spent = time.perf_counter(), time.process_time()
    with duckdb.connect(":memory:", config={"threads": 2}) as database:
        source = f"read_parquet({wanted.files})"
        rows = f"SELECT {columns} FROM {source} WHERE {wanted.condition} ORDER BY {wanted.order}"
        database.execute(f"{rows} LIMIT {wanted.limit} OFFSET {wanted.offset}", wanted.values).fetchall()
        database.execute(f"SELECT count(*) FROM {source} WHERE {wanted.condition}", wanted.values).fetchall()
    return Turn(time.perf_counter() - began, time.process_time() - spent)


if __name__ == "__main__":
    asyncio.run(main(arguments().parse_args()))
