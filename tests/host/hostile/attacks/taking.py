"""Taking more than there is: disk, memory, processes, time."""

import atexit
import contextlib
import mmap
import os
import re
import resource
import signal
import tempfile
import threading
import time

from attacks.calls import checked, libc


def fill_the_disk(world):
    folder = tempfile.mkdtemp()
    block = b"x" * (8 << 20)
    for number in range(world["disk_bytes"] // len(block)):
        with open(f"{folder}/{number}", "wb") as file:
            file.write(block)
    return "filled"


def make_a_sparse_giant(world):
    with open(tempfile.mkdtemp() + "/giant", "wb") as file:
        file.truncate(1 << 36)
    return "made"


def take_memory(world):
    taken = bytearray(world["memory_bytes"])
    return len(taken)


def map_memory(world):
    with mmap.mmap(-1, world["memory_bytes"]) as taken:
        return len(taken)


def take_memory_in_many_processes(world):
    """Each little, together too much; those that live say so at the end."""
    ours, theirs = os.pipe()
    pids = []
    for _ in range(8):
        pid = os.fork()
        if pid == 0:
            kept = b"x" * (world["host_bytes"] // 5)
            os.write(theirs, b"k" if kept else b"")
            time.sleep(30)
            os._exit(0)
        pids.append(pid)
    os.close(theirs)
    os.set_blocking(ours, False)
    alive = b""
    until = time.monotonic() + 1.5
    while len(alive) < len(pids) and time.monotonic() < until:
        time.sleep(0.05)
        try:
            alive += os.read(ours, 8)
        except BlockingIOError:
            continue
    time.sleep(1)  # a watchdog only looks now and then
    living = [pid for pid in pids if os.waitpid(pid, os.WNOHANG) == (0, 0)]
    for pid in living:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    return "taken" if len(living) == len(pids) == len(alive) else None


def hide_memory_in_files_of_memory(world):
    held = os.memfd_create("held")
    block = b"x" * (8 << 20)
    for _ in range(2 * world["host_bytes"] // len(block)):
        if os.fstat(held).st_size > (48 << 20):  # a file may have so much: take another
            held = os.memfd_create("held")
        os.write(held, block)
    return "hidden"


def hide_memory_in_shm(world):
    path = f"/dev/shm/flash-hostile-{os.getpid()}"
    try:
        with open(path, "wb") as file:
            for _ in range(40):
                file.write(b"x" * (1 << 20))
                file.flush()
    finally:
        if os.path.exists(path):
            os.unlink(path)
    return "hidden"


def leave_a_segment(world):
    """Judged by whether it can be seen from outside."""
    checked(libc.shmget(world["segment"], 4096, 0o1666))


def fork_generations(world):
    """Each leaves its session and its parent; judged by who is left."""
    left = os.pipe()
    begun = time.monotonic()

    def generation(depth):
        while time.monotonic() - begun < 2.5:
            try:
                if os.fork() == 0:
                    os.setsid()
                    os.write(left[1], b"x")
                    if depth < 4:
                        generation(depth + 1)
                    time.sleep(30)
                    os._exit(0)
            except OSError:
                time.sleep(0.01)
            if depth:
                time.sleep(0.02)
            else:
                time.sleep(0.002)

    os.set_blocking(left[0], False)
    generation(0)
    made = len(os.read(left[0], 1 << 16))
    return f"{made} processes" if made > 600 else None


def start_many_threads(world):
    until = time.monotonic() + 20
    for _ in range(700):
        threading.Thread(target=lambda: time.sleep(max(0, until - time.monotonic())), daemon=True).start()
    return "700 threads"


def open_many_files(world):
    held = [os.open("/dev/null", os.O_RDONLY) for _ in range(700)]
    for number in held:
        os.close(number)
    return "700 files"


def raise_ones_limits(world):
    for which in (resource.RLIMIT_CORE, resource.RLIMIT_FSIZE):
        resource.setrlimit(which, (1 << 30, 1 << 30))
    return "raised"


def leave_a_daemon(world):
    """Judged by who is left."""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.execvp("sleep", ["sleep", world["leaves"]])
        os._exit(0)
    os.wait()


def outlive_ones_parent(world):
    checked(libc.prctl(1, 0, 0, 0, 0))
    return "no signal of death"


def sleep_for_an_hour(world):
    time.sleep(3600)


def match_for_ever(world):
    re.match(r"(a+)+$", "a" * 64 + "b")


def count_for_ever(world):
    9 ** (9**9)


def turn_a_deaf_ear(world):
    for number in range(1, 32):
        with contextlib.suppress(OSError, ValueError):  # not in a thread
            signal.signal(number, signal.SIG_IGN)
    while True:
        pass


def stop_oneself(world):
    os.kill(os.getpid(), signal.SIGSTOP)


def hang_at_the_end(world):
    """Harmless while it lasts: the answer is out before."""
    atexit.register(time.sleep, 3600)
    threading.Thread(target=time.sleep, args=(3600,)).start()
