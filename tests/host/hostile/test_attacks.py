"""Hostile environments against a real host: nothing is got, nobody else is harmed, and the next call is right.

The walls are those of this machine, or those that FLASH_HOSTILE_WALLS names: `test_weaker` runs this file so.
"""

import asyncio
import os
import shutil
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from flash.contracts.values import Example, Verdict
from flash.host import Host, HostSpec, Limits, LoadFailed
from flash.host.child import landlock
from flash.host.child.frames import SPARES
from flash.host.sandbox import Layers, chosen, found
from flash.host.sandbox.processes import descendants

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(sys.platform != "linux", reason="the walls are Linux's"),
]

WALLS = os.environ.get("FLASH_HOSTILE_WALLS", "")
HERE = Path(__file__).parent
ATTACKS = HERE / "attacks.py"

LIMITS = Limits(
    slots=2, memory_bytes=256 << 20, host_bytes=512 << 20, scratch_bytes=32 << 20, cpu_s=20, file_bytes=64 << 20
)
EXAMPLE = Example(index=0, id="example_000000", input="q", record={"input": "q"})
DEADLINE_S = 4.0

REFUSED = (0.0, 0.5)
KILLED = ("limit-exceeded", "crashed")
NOT_BY_LANDLOCK = {"fill_the_disk"}
"""What only a namespace keeps an author from: docs/security.md says so."""


NOT_WITHOUT_PROC = {"map_memory"}
"""Where nobody sees how large a process is, it may map more than it may use."""


def walls() -> Layers:
    layers = chosen({})
    if WALLS == "landlock":
        return replace(layers, walls="landlock", second_uid=False)
    if WALLS == "no proc":
        return replace(layers, proc=False)
    return layers


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def host(world: Any, folder: Path) -> AsyncIterator[Host]:
    layers = walls()
    if layers.walls == "landlock" and landlock.abi() < landlock.SCOPED_SINCE:
        pytest.skip("Landlock alone is no sandbox on this kernel")
    spec = HostSpec(folder=folder, params={"world": world.told()}, limits=LIMITS, layers=layers)
    made = await Host.start(spec)
    yield made
    await made.close()


async def score(host: Host, *texts: str) -> list[Verdict]:
    return await host.score(EXAMPLE, texts, deadline_s=DEADLINE_S)


def outcome(verdict: Verdict) -> float | str | None:
    return verdict.fault.kind if verdict.fault else verdict.reward


async def attacked(host: Host, world: Any, attack: str, *allowed: float | str) -> None:
    """The attack, between two answers that it must not harm."""
    before, found, after = await score(host, "ok", attack, "ok")
    told = f"{outcome(found)}: {found.fault or found.metadata}"

    assert outcome(found) in allowed, told
    assert world.canary not in told + found.output
    assert world.secret not in told + found.output
    assert len(found.output) <= 64 << 10
    assert (outcome(before), outcome(after)) == (0.25, 0.25), f"beside {told}"
    await unharmed(host, world)


async def unharmed(host: Host, world: Any) -> None:
    """Nothing has happened outside, nothing is left inside, and the next answer is right and in time."""
    began = time.monotonic()
    [verdict] = await score(host, "ok")
    assert outcome(verdict) == 0.25
    assert time.monotonic() - began < DEADLINE_S
    assert world.harm() == []
    await settled(host)


async def settled(host: Host) -> None:
    """There are no more processes than a host has that does nothing."""
    give_up = time.monotonic() + 5
    while len(there := descendants(host._link._process.pid)) > 4 + SPARES:
        assert time.monotonic() < give_up, f"{len(there)} processes"
        await asyncio.sleep(0.05)


@pytest.mark.attacks("FILES", "PROC", "NETWORK", "KERNEL")
async def test_what_is_not_given_is_not_got(host: Host, world: Any, attack: str) -> None:
    await attacked(host, world, attack, *REFUSED)


@pytest.mark.attacks("RESOURCES")
async def test_no_more_is_taken_than_there_is_for_it(host: Host, world: Any, attack: str) -> None:
    if attack in NOT_BY_LANDLOCK and host._link._cell.layers.walls == "landlock":
        pytest.skip("Landlock limits no disk")
    if attack in NOT_WITHOUT_PROC and not host._link._cell.layers.proc:
        pytest.skip("nobody sees how large it is")
    await attacked(host, world, attack, *REFUSED, *KILLED)


@pytest.mark.attacks("SIGNALS")
async def test_nobody_is_signalled(host: Host, world: Any, attack: str) -> None:
    await attacked(host, world, attack, *REFUSED)


@pytest.mark.attacks("TIME")
async def test_what_never_ends_is_ended(host: Host, world: Any, attack: str) -> None:
    await attacked(host, world, attack, "timed-out")


@pytest.mark.attacks("CHANNEL")
async def test_what_is_said_out_of_turn_is_a_fault_of_its_own_answer(host: Host, world: Any, attack: str) -> None:
    await attacked(host, world, attack, *REFUSED, *KILLED)


@pytest.mark.attacks("LEFT")
async def test_the_next_group_knows_nothing_of_it(host: Host, world: Any, attack: str) -> None:
    [verdict] = await score(host, attack)

    assert len(verdict.output) <= 64 << 10
    await unharmed(host, world)


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        ("float('nan')", "invalid-result"),
        ("float('-inf')", "invalid-result"),
        ("10 ** 400", "invalid-result"),
        ("1e300", "invalid-result"),
        ("type('F', (float,), {'__float__': lambda self: 9e9})(1)", "invalid-result"),
        ("RewardResult(type('F', (float,), {})(1))", "invalid-result"),
        ("'1'", "invalid-result"),
        ("[1.0]", "invalid-result"),
        ("RewardResult(1.0, metadata={'x': 'y' * (2 << 20)})", "limit-exceeded"),
        ("RewardResult(1.0, metadata={'x': '\\ud800'})", "invalid-result"),
        ("type('R', (), {'score': property(lambda self: 1 / 0), 'resolved_success': 1})()", "raised"),
    ],
)
async def test_a_reward_is_a_plain_finite_number_or_a_fault(host: Host, given: str, kind: str) -> None:
    before, verdict, after = await score(host, "ok", f"= {given}", "ok")

    assert [outcome(before), outcome(verdict), outcome(after)] == [0.25, kind, 0.25]


@pytest.mark.parametrize(
    "given",
    [
        "{('a', 'b'): b'bytes', 1: {2, 3}, 'deep': __import__('functools').reduce(lambda a, _: [a], range(500), 1)}",
        "{'n': float('nan'), 'big': 10 ** 30, 'self': WORLD}",
    ],
)
async def test_what_is_noted_beside_a_reward_comes_as_plain_data(host: Host, given: str) -> None:
    [verdict] = await score(host, f"= RewardResult(1.0, metadata={given})")

    assert outcome(verdict) in (1.0, "invalid-result")
    assert all(isinstance(key, str) for key in verdict.metadata)


@pytest.mark.skipif(bool(WALLS), reason="once is enough")
@pytest.mark.attacks("FILES", "PROC", "NETWORK", "KERNEL", "leave_a_daemon", "kill_a_victim", "outlive_ones_parent")
async def test_the_import_gets_no_further(world: Any, folder: Path, attack: str) -> None:
    params = {"world": world.told(), "at_import": attack}
    host = await Host.start(HostSpec(folder=folder, params=params, limits=LIMITS, layers=walls()))
    try:
        [verdict] = await score(host, "= FOUND[0]")
        await unharmed(host, world)
    finally:
        await host.close()
    assert outcome(verdict) in REFUSED, verdict.metadata
    assert world.left() == []


@pytest.mark.skipif(bool(WALLS), reason="once is enough")
async def test_an_import_that_never_ends_takes_its_daemons_along(world: Any, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "environment.py").write_text(
        f"import os, time\nif os.fork() == 0:\n    os.setsid()\n    os.execvp('sleep', ['sleep', '{world.leaves}'])\n"
        "time.sleep(3600)\n"
    )

    with pytest.raises(LoadFailed, match="longer than"):
        await Host.start(HostSpec(folder=tmp_path, limits=LIMITS, layers=walls()), load_timeout_s=1.0)

    assert world.left() == []


async def test_honest_work_passes(host: Host) -> None:
    work = [
        "__import__('subprocess').run(['echo', 'a'], capture_output=True).stdout == b'a\\n'",
        "__import__('sqlite3').connect(':memory:').execute('select 1').fetchone() == (1,)",
        "(lambda f: (f.write('x'), f.close())[0] == 1)(open(__import__('tempfile').mkdtemp() + '/f', 'w'))",
        "__import__('asyncio').run(__import__('asyncio').sleep(0, True))",
        "list(__import__('concurrent.futures').futures.ThreadPoolExecutor(4).map(abs, [-1])) == [1]",
        "len(__import__('os').urandom(8)) == 8",
        "__import__('decimal').Decimal('0.1') * 3 == __import__('decimal').Decimal('0.3')",
    ]

    verdicts = await score(host, *(f"= float({done})" for done in work))

    assert [outcome(verdict) for verdict in verdicts] == [1.0] * len(work), verdicts


async def test_the_layers_are_those_that_are_meant(host: Host) -> None:
    """As the kernel tells it: a silent fallback would pass everything else by luck."""
    await score(host, "ok")
    layers = host._link._cell.layers
    for pid in descendants(host._link._process.pid) if layers.walls == "bwrap" else [host._link._process.pid]:
        status = status_of(pid)
        assert status["Seccomp"] == "2"
        assert status["NoNewPrivs"] == "1"
        assert int(status["CapEff"], 16) == 0
        if layers.second_uid:
            assert int(status["Uid"].split()[0]) >= 61_000
        if layers.walls == "bwrap":
            assert len(status["NSpid"].split()) == 2
            assert os.readlink(f"/proc/{pid}/ns/net") != os.readlink("/proc/self/ns/net")
    assert WALLS != "landlock" or layers.walls == "landlock"
    assert WALLS or layers.walls == "bwrap" or not found().bwrap


async def test_a_forger_can_speak_for_the_rest_of_its_own_group_and_with_a_fork_for_each_answer_for_nobody(
    host: Host, world: Any, folder: Path, tmp_path: Path
) -> None:
    forge = (
        "= [__import__('os').write(n, __import__('struct').pack('<II', len(p), 0) + p) for n in attacks.channels() "
        "for p in [__import__('msgspec').msgpack.encode((1, {'reward': 0.75, 'success': True}))]] and 0.0"
    )
    shutil.copytree(folder, tmp_path / "alone")
    with (tmp_path / "alone" / "environment.py").open("a") as file:
        file.write("Hostile.isolation = 'call'\n")
    spec = HostSpec(folder=tmp_path / "alone", params={"world": world.told()}, limits=LIMITS, layers=walls())
    alone = await Host.start(spec)
    try:
        together, apart = await score(host, forge, "ok"), await score(alone, forge, "ok")
    finally:
        await alone.close()

    assert outcome(together[1]) == 0.75  # the attack is a real one
    assert outcome(apart[1]) == 0.25


def status_of(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)
