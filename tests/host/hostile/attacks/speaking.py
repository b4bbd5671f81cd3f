"""Saying what was not asked, and leaving something behind: in a fork, where there is a channel to speak to."""

import array
import ctypes
import os
import stat
import struct
import sys
import tempfile


def channels():
    found = []
    for number in range(3, 256):
        try:
            if stat.S_ISSOCK(os.fstat(number).st_mode):
                found.append(number)
        except OSError:
            continue
    return found


def speak_nonsense(world):
    for number in channels():
        os.write(number, array.array("B", range(1, 256)).tobytes() * 64)


def promise_a_giant(world):
    for number in channels():
        os.write(number, struct.pack("<II", 1 << 30, 0))


def break_off(world):
    for number in channels():
        os.write(number, struct.pack("<II", 100, 0) + b"half")
    os._exit(0)


def answer_for_strangers(world):
    """Rewards for answers that nobody asked about."""
    import msgspec

    for number in channels():
        for index in (-1, 99, 2**40):
            payload = msgspec.msgpack.encode((index, {"reward": 666.0, "success": True}))
            os.write(number, struct.pack("<II", len(payload), 0) + payload)


def hang_up(world):
    os.closerange(3, 256)


def vanish(world):
    os._exit(0)


def crash(world):
    ctypes.string_at(0)


def flood_the_output(world):
    block = "x" * (1 << 20)
    for _ in range(200):
        sys.stdout.write(block)


def poison_the_sdk(world):
    import envsdk
    import envsdk.hosted

    envsdk.RewardResult.resolved_success = lambda self: True
    envsdk.hosted.number = lambda value, what: 1000.0
    envsdk.EnvironmentSingleTurn.score_response = None
    sys.modules["json"] = None


def leave_files_behind(world):
    folder = tempfile.gettempdir()
    for number in range(2_000):
        open(f"{folder}/{number}", "w").close()
    deep = folder
    for _ in range(300):
        deep += "/d"
        os.mkdir(deep)
    os.chmod(f"{folder}/d/d", 0)
    os.chmod(f"{folder}/d", 0)
    with open(f"{folder}/random.py", "w") as file:
        file.write("raise SystemExit")
