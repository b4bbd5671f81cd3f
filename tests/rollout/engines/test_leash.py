"""vLLM's processes end with the rollout that started them."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from services.rollout.engines.vllm_leash import LEASH

ROLLOUT = """
import multiprocessing, time
from services.rollout.engines import vllm_leash

def engine(ready):
    vllm_leash.register()
    ready.set()
    time.sleep(60)

if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    process = context.Process(target=engine, args=(ready,))
    process.start()
    ready.wait()
    print(process.pid, flush=True)
    time.sleep(60)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a process with its parent")
@pytest.mark.parametrize("leashed", [True, False])
def test_a_process_of_vllm_ends_with_its_rollout(leashed: bool, tmp_path: Path) -> None:
    script = tmp_path / "rollout.py"
    script.write_text(ROLLOUT)
    told = {name: value for name, value in os.environ.items() if name != LEASH}
    told |= {"PYTHONPATH": str(Path.cwd())} | ({LEASH: "1"} if leashed else {})
    with subprocess.Popen([sys.executable, str(script)], env=told, stdout=subprocess.PIPE, text=True) as rollout:
        assert rollout.stdout is not None
        engine = int(rollout.stdout.readline())
        rollout.kill()

    ended = ends(engine, within_s=5.0 if leashed else 0.5)

    if not ended:
        os.kill(engine, signal.SIGKILL)
    assert ended == leashed


def ends(pid: int, within_s: float) -> bool:
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except FileNotFoundError:
            return True
        time.sleep(0.05)
    return False
