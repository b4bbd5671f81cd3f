"""Groups per second from rollout through scorer to learner, over real JetStream, beside Atropos and plain NATS.

    python -m bench.transport

A group is 8 rollouts of 512 tokens, 128 of them the prompt's. Ours: packed, told, scored with a trivial reward by the
real scorer (once with a function in place of the host, once through the host), told again, replayed, unpacked. Atropos:
posted to its API server (the JSON made beforehand) and fetched in batches, with what its clients ask for by default and
without gzip. Plain NATS: the same bytes published, with and without a stream. Each side has its own processes, as in
production, and the sides take turns. CPU is summed over a side's processes, servers and children included.
"""

import argparse
import asyncio
import itertools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from bench.figures import cpu_by_name, interleaved, last_line, median_ratio, show, spent
from bench.parts import Part, end, end_in_order, python
from bench.peers import atropos
from bench.transport_parts import ANSWER_TOKENS, PROMPT_TOKENS, ROLLOUTS, submit
from flash.artifacts import pack
from flash.bus.server import NatsServer
from flash.store import open_store

OURS, HOST, PEER, IDENTITY = "in-process scorer", "real host", "Atropos", "Atropos, no gzip"
TRIVIAL = Path(__file__).with_name("trivial")
STREAM, CORE = "NATS, stream", "NATS, no stream"


@dataclass(frozen=True)
class Turn:
    """One side's turn in a round."""

    groups: int
    wall_s: float
    cpu_s: Mapping[str, float]
    """By process."""

    @property
    def groups_per_s(self) -> float:
        return self.groups / self.wall_s

    @property
    def cpu_ms_per_group(self) -> float:
        return 1e3 * sum(self.cpu_s.values()) / self.groups


def main() -> None:
    given = arguments().parse_args()
    end_in_order()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="flash-bench-")))
        runner = stack.enter_context(asyncio.Runner())
        ours = Ours(folder / "ours", runner, stack, hosted=False)
        host = Ours(folder / "host", runner, stack, hosted=True)
        plain = Plain(ours, stack)
        peer = Peer(stack)
        sides: dict[str, Callable[[int], Turn]] = {
            OURS: lambda _: ours.turn(given.groups),
            HOST: lambda _: host.turn(given.host_groups),
            PEER: lambda _: peer.turn(given.peer_groups, {}),
            IDENTITY: lambda _: peer.turn(given.peer_groups, {"accept-encoding": "identity"}),
            STREAM: lambda _: plain.turn(given.groups, "stream"),
            CORE: lambda _: plain.turn(given.groups, "core"),
        }
        for side in sides.values():
            side(-1)  # the first turn warms up and is not counted
        found = interleaved(given.rounds, sides)
    report(found)


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bench.transport")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--groups", type=int, default=1000, help="a turn of ours and of plain NATS")
    parser.add_argument("--host-groups", type=int, default=500, help="a turn of ours through the host")
    parser.add_argument("--peer-groups", type=int, default=96, help="a turn of the peer's: whole batches of 32")
    return parser


class Ours:
    """A nats-server, a scorer, who generates and who learns."""

    def __init__(self, folder: Path, runner: asyncio.Runner, stack: ExitStack, *, hosted: bool) -> None:
        self._folder = folder
        server = NatsServer(folder / "nats")
        runner.run(server.start())
        stack.callback(lambda: runner.run(server.stop()))
        self.nats_url, self.store_url = server.url, f"file://{folder}/store"
        self._runner, self._packed = runner, pack(TRIVIAL)
        self._run_ids = (f"bench-{number}" for number in itertools.count())
        self._rollout, self._learner = self.part("rollout", stack), self.part("learner", stack)
        scorer = hosted_scorer(self, folder, stack) if hosted else self.part("scorer", stack).pid
        self.server_pid = server.pid or 0
        self.pids = {
            "rollout": self._rollout.pid, "scorer": scorer, "learner": self._learner.pid,
            "nats-server": self.server_pid,
        }  # fmt: skip

    def part(self, role: str, stack: ExitStack) -> Part:
        command = python("bench.transport_parts", role, self.nats_url, self.store_url)
        part = Part(role, command, log=self._folder / f"{role}.log")
        stack.callback(part.stop)
        return part

    def turn(self, groups: int, answer_tokens: int = ANSWER_TOKENS) -> Turn:
        run_id = next(self._run_ids)
        self._runner.run(self._submit(run_id))
        self._rollout.ask("prepare", run_id=run_id, groups=groups, tokens=answer_tokens)

        def go() -> None:
            self._learner.tell("read", run_id=run_id, groups=groups)
            self._rollout.tell("go")
            learned = self._learner.hear()
            self._rollout.hear()
            wanted = {"tokens": groups * ROLLOUTS * (PROMPT_TOKENS + answer_tokens), "rewards": groups * ROLLOUTS}
            assert learned == wanted, f"the learner got {learned} and should have {wanted}"

        return timed(groups, self.pids, go)

    async def _submit(self, run_id: str) -> None:
        await submit(await open_store(self.store_url), run_id, self._packed)


class Peer:
    """Atropos' server, who posts and who fetches."""

    def __init__(self, stack: ExitStack) -> None:
        url, server_pid = stack.enter_context(atropos.server())
        self._fetch, self._post = self._part("fetch", url, stack), self._part("post", url, stack)
        self._pids = {"post": self._post.pid, "server": server_pid, "fetch": self._fetch.pid}

    def _part(self, role: str, url: str, stack: ExitStack) -> Part:
        part = Part(role, python("bench.peers.atropos", role, url, interpreter=atropos.interpreter()))
        stack.callback(part.stop)
        return part

    def turn(self, groups: int, headers: Mapping[str, str]) -> Turn:
        self._post.ask("prepare", groups=groups)

        def go() -> None:
            self._fetch.tell("fetch", groups=groups, headers=headers)
            self._post.ask("go")
            assert self._fetch.hear()["once_each"], "the peer lost a group or gave one twice"

        return timed(groups, self._pids, go)


class Plain:
    """Who publishes to one of our servers, with nothing of ours between."""

    def __init__(self, ours: Ours, stack: ExitStack) -> None:
        self._raw = ours.part("raw", stack)
        self._pids = {"publisher": self._raw.pid, "nats-server": ours.server_pid}
        self._names = itertools.count()

    def turn(self, groups: int, how: str) -> Turn:
        self._raw.ask("prepare", groups=groups)
        return timed(groups, self._pids, lambda: self._raw.ask(how, name=str(next(self._names))))


def timed(groups: int, pids: Mapping[str, int], go: Callable[[], object]) -> Turn:
    before, start = cpu_by_name(pids), time.perf_counter()
    go()
    wall_s = time.perf_counter() - start
    return Turn(groups, wall_s, spent(before, cpu_by_name(pids)))


def hosted_scorer(ours: Ours, folder: Path, stack: ExitStack) -> int:
    """The service itself, as `flash up` starts it; its process id."""
    settings = {"NATS_URL": ours.nats_url, "STORE_URL": ours.store_url, "HOME": str(folder)}
    log = stack.enter_context((folder / "scorer.log").open("ab"))
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "services.scorer"], cwd=folder, stderr=log,
        env={**os.environ, **{f"FLASH_{name}": value for name, value in settings.items()}},
    )  # fmt: skip
    stack.callback(end, process)
    return process.pid


def report(found: Mapping[str, list[Turn]]) -> None:
    rates = {name: [turn.groups_per_s for turn in turns] for name, turns in found.items()}
    cpu = {name: median(turn.cpu_ms_per_group for turn in turns) for name, turns in found.items()}
    show(
        f"a group is 8 rollouts x 512 tokens; medians of {len(found[OURS])} rounds",
        ["side", "groups/s", "min", "max", "x Atropos", "CPU ms/group", "of which"],
        [
            (
                name, f"{median(rates[name]):,.0f}", f"{min(rates[name]):,.0f}", f"{max(rates[name]):,.0f}",
                f"{median_ratio(rates[name], rates[PEER]):.1f}", f"{cpu[name]:.2f}", split(turns),
            )
            for name, turns in found.items()
        ],
    )  # fmt: skip
    print(
        last_line(
            "transport",
            groups_per_s=median(rates[OURS]),
            groups_per_s_host=median(rates[HOST]),
            peer_groups_per_s=median(rates[PEER]),
            raw_groups_per_s=median(rates[STREAM]),
            ratio=median_ratio(rates[OURS], rates[PEER]),
            ratio_host=median_ratio(rates[HOST], rates[PEER]),
            ratio_no_gzip=median_ratio(rates[OURS], rates[IDENTITY]),
            cpu_ms_per_group=cpu[OURS],
            cpu_ms_per_group_host=cpu[HOST],
            peer_cpu_ms_per_group=cpu[PEER],
        )
    )


def split(turns: list[Turn]) -> str:
    """CPU milliseconds a group of each process, the medians of the rounds."""
    return ", ".join(
        f"{process} {median(1e3 * turn.cpu_s[process] / turn.groups for turn in turns):.2f}"
        for process in turns[0].cpu_s
    )


if __name__ == "__main__":
    main()
