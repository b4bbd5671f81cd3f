"""A GRPO step of the whole system on the CPU, beside plain torch on the same tokens, and TRL on the same prompts.

    python -m bench.step                          the tiny model
    python -m bench.step --model smollm2-135m     once it has been pulled

Ours is a real stack (`flash up`), an SFT run to begin from, and then a GRPO run a round; counted is everything that all
processes of the stack spend from the start policy to the last step: sampling, scoring, learning, adapters and
checkpoints, telling and storing. After each run its groups go to the floor (`bench.plain`: the same work on the same
tokens), to our own engine and learner without any platform around them (`bench.alone`), and its prompts to TRL.

    ratio            ours / TRL, CPU seconds, TRL's scaled from the tokens it drew to those that we drew
    floor_ratio      ours / floor, CPU seconds
    platform_share   the part of ours that is neither our sampling nor our update
"""

import argparse
import asyncio
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from bench import taken
from bench.figures import cpu_s, last_line, median_ratio, own_cpu_s, show, spent
from bench.parts import Part, end_in_order, python
from flash.bus import Bus
from flash.bus.jetstream import connect
from flash.contracts.groups import GroupScored
from flash.contracts.runs import RunCancelled, RunCompleted, RunFailed, RunSubmitted
from flash.contracts.spec import RunSpec
from flash.contracts.steps import StepFinished
from flash.models import folder as model_folder
from flash.store import open_store

ORG = "local"
TEMPLATES = {"tiny": "sort", "smollm2-135m": "larger"}
GAP = 1e-3
"""By how much, in nats, the floor's logprobs may differ from the recorded ones."""


@dataclass(frozen=True)
class Watched:
    """A run as the stream told it, and what it took from the start policy to the last step."""

    spec: RunSpec
    finished: dict[int, StepFinished]
    groups: dict[int, list[GroupScored]]
    wall_s: float
    cpu_s: Mapping[str, float]
    """By process of the stack."""


@dataclass(frozen=True)
class Round:
    """CPU and wall seconds of a step: means over the steps of a round, whose sides are a pair."""

    cpu_by_process: Mapping[str, float]
    floor_by_part: Mapping[str, float]
    alone_by_part: Mapping[str, float]
    """Our sampling and our update without the platform."""
    peer_cpu_s: float | None
    wall_s: float
    floor_wall_s: float

    @property
    def cpu_s(self) -> float:
        return sum(self.cpu_by_process.values())

    @property
    def floor_cpu_s(self) -> float:
        return sum(self.floor_by_part.values())

    @property
    def platform_share(self) -> float:
        return 1.0 - sum(self.alone_by_part.values()) / self.cpu_s


def main() -> None:
    given = arguments().parse_args()
    end_in_order()
    with tempfile.TemporaryDirectory(prefix="flash-bench-") as folder, stack(Path(folder), given.model) as flash:
        start = taught(flash)
        rounds = [one_round(flash, start, given.steps, given.peer_steps, seed) for seed in range(given.rounds)]
    report(given.model, given.steps, rounds)


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bench.step")
    parser.add_argument("--model", choices=sorted(TEMPLATES), default="tiny")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=10, help="of each round's run")
    parser.add_argument(
        "--peer-steps", type=int, default=5, help="of TRL in each round, fewer than ours; 0: without TRL"
    )
    return parser


class Flash:
    """The command line, in a folder of the bench's own; what it says to people goes into `flash.log` there."""

    def __init__(self, folder: Path) -> None:
        self._log = folder / "flash.log"
        self.home, self.project = folder / "home", folder / "project"
        self.home.mkdir()
        self.project.mkdir()
        models = Path.home() / ".flash" / "models"
        models.mkdir(parents=True, exist_ok=True)
        (self.home / "models").symlink_to(models)

    def __call__(self, *words: str) -> str:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("FLASH_")}
        with self._log.open("ab") as log:
            done = subprocess.run(
                [str(Path(sys.executable).with_name("flash")), *words], cwd=self.project, stdout=subprocess.PIPE,
                stderr=log, env=kept | {"FLASH_HOME": str(self.home)},
            )  # fmt: skip
        if done.returncode:
            raise SystemExit(
                f"`flash {' '.join(words)}` ended with {done.returncode}:\n{self._log.read_text()[-2000:]}"
            )
        return done.stdout.decode()

    def running(self) -> dict[str, Any]:
        """What the supervisor wrote down: urls and processes."""
        found: dict[str, Any] = json.loads((self.home / "stack.json").read_text())
        return found

    def cpu_s(self) -> dict[str, float]:
        """By process. A supervisor's children are parts of their own."""
        parts = {part["name"]: cpu_s(part["pid"]) for part in self.running()["parts"]}
        return parts | {"supervisor": own_cpu_s(psutil.Process(self.running()["pid"]))}


@contextmanager
def stack(folder: Path, model: str) -> Iterator[Flash]:
    flash = Flash(folder)
    flash("up", "--detach", "--model", model)
    try:
        flash("env", "setup", "--template", TEMPLATES[model], "-y")
        flash("env", "push", "--name", TEMPLATES[model], "-y")
        yield flash
    finally:
        flash("down")


def taught(flash: Flash) -> str:
    """The id of an SFT run: where the GRPO runs begin, and what warms everything up."""
    run: dict[str, Any] = json.loads(flash("train", "configs/sft.toml", "--json"))
    note(f"{run['run_id']} has taught the form of an answer")
    return str(run["run_id"])


def one_round(flash: Flash, start: str, steps: int, peer_steps: int, seed: int) -> Round:
    sets = (f"seed={seed}", f"train.steps={steps}", f"train.init_from_adapter={start}")
    words = itertools.chain.from_iterable(("--set", word) for word in sets)
    watched = asyncio.run(watch(flash, ("train", "configs/rl.toml", "--background", "--json", *words), steps))
    note(f"{watched.spec.run_id} took {watched.wall_s:.1f} s for {steps} steps; now the others on its tokens")
    with tempfile.TemporaryDirectory(prefix="flash-bench-") as folder:
        run = taken.Run(
            spec=watched.spec, model=str(model_folder(watched.spec.model, flash.home)), adapters=folder,
            finished=watched.finished, groups=watched.groups,
        )  # fmt: skip
        asyncio.run(fetch_adapters(flash.running()["store_url"], run))
        file = Path(folder, "run")
        taken.write(file, run)
        floor = done_by("bench.plain", file)
        alone = done_by("bench.alone", file)
        peer = done_by("bench.peers.trl", file, steps=peer_steps) if peer_steps else None
    assert floor["logprob_gap"] < GAP, f"the floor computed something else: logprobs differ by {floor['logprob_gap']}"
    return Round(
        cpu_by_process={name: seconds / steps for name, seconds in watched.cpu_s.items()},
        floor_by_part={name: floor[name] / steps for name in ("sample_cpu_s", "update_cpu_s")},
        alone_by_part={name: alone[name] / steps for name in ("sample_cpu_s", "update_cpu_s")},
        peer_cpu_s=sum(peer["cpu_s"]) / sum(peer["tokens"]) * run.tokens / steps if peer else None,
        wall_s=watched.wall_s / steps,
        floor_wall_s=floor["wall_s"] / steps,
    )


async def watch(flash: Flash, words: Sequence[str], steps: int) -> Watched:
    """Follow the run that a command submits to its end. CPU is read when the start policy and when the last step is
    told: whoever began to listen once the command is done would come too late for the first."""
    running = flash.running()
    bus = await connect(running["nats_url"], await open_store(running["store_url"]), name="bench")
    known = {told.event.run_id async for told in bus.history(RunSubmitted.pattern(org=ORG))}  # type: ignore[attr-defined]
    finished: dict[int, StepFinished] = {}
    marks: list[tuple[float, dict[str, float]]] = []
    kinds = (RunSubmitted, StepFinished, RunCompleted, RunFailed, RunCancelled)
    submitting = asyncio.create_task(asyncio.to_thread(flash, *words))
    try:
        async for told in bus.replay(*(kind.pattern(org=ORG) for kind in kinds)):
            event: Any = told.event
            if event.run_id in known:
                continue
            match event:
                case RunSubmitted():
                    spec = event.spec
                case StepFinished():
                    finished[event.step] = event
                    if event.step in (0, steps):
                        marks.append((time.perf_counter(), flash.cpu_s()))
                case RunCompleted():
                    break
                case _:
                    raise RuntimeError(f"{event.run_id} did not complete: {event}")
        await submitting
        groups = await groups_of(bus, spec.run_id)
    finally:
        await bus.close()
    (begin, before), (end, after) = marks
    return Watched(spec, finished, groups, end - begin, spent(before, after))


async def groups_of(bus: Bus, run_id: str) -> dict[int, list[GroupScored]]:
    found: dict[int, list[GroupScored]] = {}
    async for told in bus.history(GroupScored.pattern(org=ORG, run_id=run_id, scope="train")):
        assert isinstance(told.event, GroupScored)
        found.setdefault(told.event.step, []).append(told.event)
    return {step: sorted(groups, key=lambda group: group.group) for step, groups in sorted(found.items())}


async def fetch_adapters(store_url: str, run: taken.Run) -> None:
    """The start policy's adapter, and every one that sampled."""
    store = await open_store(store_url)
    policies = [run.finished[0].policy, *(group.policy for groups in run.groups.values() for group in groups)]
    for policy in {policy.digest: policy for policy in policies}.values():
        for name in taken.ADAPTER_FILES:
            run.adapter(policy.digest).mkdir(exist_ok=True)
            await store.get_file(f"{policy.key}/{name}", run.adapter(policy.digest) / name)


def done_by(module: str, file: Path, **details: Any) -> dict[str, Any]:
    """What a side gives for a run, in a process of its own."""
    part = Part(module, python(module), log=file.with_name(f"{module}.log"))
    try:
        return part.ask("steps", file=str(file), **details)
    finally:
        part.stop()


def note(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def report(model: str, steps: int, rounds: list[Round]) -> None:
    ours = [found.cpu_s for found in rounds]
    floors = [found.floor_cpu_s for found in rounds]
    peers = [found.peer_cpu_s for found in rounds if found.peer_cpu_s is not None]
    share = median(found.platform_share for found in rounds)
    sides = {"Flash": ours, "plain torch": floors, **({"TRL": peers} if peers else {})}
    walls = {"Flash": [r.wall_s for r in rounds], "plain torch": [r.floor_wall_s for r in rounds]}
    show(
        f"a GRPO step of {model}; medians of {len(rounds)} rounds of {steps} steps",
        ["side", "CPU s", "min", "max", "x plain torch", "wall s"],
        [
            (
                name, f"{median(seconds):.3f}", f"{min(seconds):.3f}", f"{max(seconds):.3f}",
                f"{median_ratio(seconds, floors):.2f}", f"{median(walls[name]):.3f}" if name in walls else "",
            )
            for name, seconds in sides.items()
        ],
    )  # fmt: skip
    tables = {"Flash": "cpu_by_process", "Flash, alone": "alone_by_part", "plain torch": "floor_by_part"}
    rows = [
        (f"{side}: {part}", f"{1e3 * median(getattr(found, table)[part] for found in rounds):.1f}")
        for side, table in tables.items()
        for part in getattr(rounds[0], table)
    ]
    show(f"where it goes; platform share {share:.1%}", ["process or part", "CPU ms a step"], rows)
    figures = {"cpu_s": median(ours), "floor_cpu_s": median(floors), "floor_ratio": median_ratio(ours, floors)}
    if peers:
        figures |= {"peer_cpu_s": median(peers), "ratio": median_ratio(ours, peers)}
    walls_ratio = median_ratio(walls["Flash"], walls["plain torch"])
    print(
        last_line("step", **figures, platform_share=share, wall_s=median(walls["Flash"]), floor_wall_ratio=walls_ratio)
    )


if __name__ == "__main__":
    main()
