"""Trees of processes, real ones."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import pytest

from flash.host.sandbox import processes

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")

BOMB = """
import ctypes, os, time
ctypes.CDLL(None).prctl(36, 1)
for _ in range(3):
    os.fork()
for _ in range(600):
    if os.fork() == 0:
        time.sleep(20)
        os._exit(0)
time.sleep(20)
"""
"""Eight that fork as fast as they can; bounded, so that a machine on which the test fails is not lost."""
GREEDY = """
import os, sys
kept = bytearray(64 << 20)
os.fork()
more = bytearray(32 << 20)
print(flush=True)
sys.stdin.read()
"""


def in_time(is_so: Callable[[], bool]) -> None:
    give_up = time.monotonic() + 10
    while not is_so():
        assert time.monotonic() < give_up
        time.sleep(0.02)


def test_a_tree_that_goes_on_forking_is_killed_to_the_last() -> None:
    with subprocess.Popen([sys.executable, "-c", BOMB], start_new_session=True) as root:
        in_time(lambda: len(processes.descendants(root.pid)) > 24)

        processes.kill_tree(root.pid)
        root.wait()

    in_time(lambda: not [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if session(pid) == root.pid])


def test_memory_of_all_counts() -> None:
    with subprocess.Popen([sys.executable, "-c", GREEDY], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as root:
        assert root.stdout is not None
        root.stdout.readline(), root.stdout.readline()

        assert processes.private_bytes(root.pid) > (64 + 32 + 32) << 20

        processes.kill_tree(root.pid)


def test_a_guard_takes_what_is_noted_when_its_writer_is_gone() -> None:
    noted, forgotten = (subprocess.Popen(["sleep", "60"]) for _ in range(2))

    subprocess.run(
        [sys.executable, "-I", "-S", processes.__file__],
        input=f"+{noted.pid}\n+{forgotten.pid}\n-{forgotten.pid}\n".encode(),
        timeout=20,
        check=True,
    )

    assert noted.wait(5) == -signal.SIGKILL
    assert forgotten.poll() is None
    forgotten.kill()
    forgotten.wait()


def test_users_of_processes_are_found_while_processes_come_and_go() -> None:
    churn = "while :; do /bin/true; done"
    with subprocess.Popen(["/bin/sh", "-c", churn], start_new_session=True) as churning:
        found = [processes.uids() for _ in range(200)]
        churning.kill()

    assert all(os.getuid() in uids for uids in found)


def session(pid: int) -> int:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return 0
