"""A group of one's own, where this machine lets us make one."""

import subprocess
import sys

import pytest

from flash.host.sandbox import cgroup

pytestmark = pytest.mark.skipif(not cgroup.works(), reason="no cgroup that this process may divide")


def test_who_takes_more_memory_than_the_group_has_is_killed_and_counted() -> None:
    group = cgroup.Cgroup.make(memory_bytes=64 << 20, processes=16)
    assert group is not None
    code = "input(); kept = bytearray(256 << 20)"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE) as greedy:
        group.add(greedy.pid)
        greedy.communicate(b"\n", timeout=20)

    assert greedy.returncode == -9
    assert group.killed_for_memory() == 1
    group.remove()


def test_processes_beyond_the_groups_number_are_refused() -> None:
    group = cgroup.Cgroup.make(memory_bytes=1 << 30, processes=8)
    assert group is not None
    code = (
        "import os\ninput()\ntry:\n    for _ in range(20):\n        if os.fork() == 0: input()\n"
        "except BlockingIOError: os._exit(3)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE) as many:
        group.add(many.pid)
        many.communicate(b"\n", timeout=20)

    assert many.returncode == 3
    group.remove()


def test_a_removed_group_is_gone() -> None:
    group = cgroup.Cgroup.make(memory_bytes=1 << 30, processes=8)
    assert group is not None
    assert all(place.is_dir() for place in group._places)

    group.remove()

    assert not any(place.exists() for place in group._places)
