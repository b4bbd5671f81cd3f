"""Positive controls: an attack that does nothing without walls would prove nothing."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the walls are Linux's")

ROOTS = {
    "make_a_device", "read_memory_of_a_victim", "open_a_kernel_setting", "read_the_kernels_keys",
    "open_a_packet_socket", "open_a_raw_socket", "open_netlinks_audit", "trace_a_victim", "read_from_a_victim",
    "mount_something",
    "change_the_root", "make_a_map_of_bpf", "count_the_machines_events", "handle_ones_own_faults", "become_root",
    "read_the_kernels_log", "open_by_handle", "change_an_installed_package", "read_canary_by_another_root",
    "raise_ones_limits",
}  # fmt: skip
"""What only root could do anyway."""
SWITCHED_OFF = {"keep_a_key", "set_up_io_uring", "change_personality", "make_a_user_namespace"}
"""What some kernels refuse to everybody."""
UNCONTROLLED = {
    "kill_ones_parent": "its parent is the test",
    "stop_ones_parent": "its parent is the test",
    "fork_generations": "it would be the machine that is bombed",
    "take_memory_in_many_processes": "it would be the machine's memory",
    "use_the_old_gate": "not every kernel has one",
    "read_the_kernels_keys": "not every kernel has the file",
}


@pytest.mark.attacks("FILES", "PROC", "NETWORK", "RESOURCES", "KERNEL", "SIGNALS")
def test_without_walls_the_attack_bites(world: Any, folder: Path, attack: str) -> None:
    if attack in UNCONTROLLED:
        pytest.skip(UNCONTROLLED[attack])
    if attack in ROOTS and os.geteuid() != 0:
        pytest.skip("for root")
    code = (
        "import sys, json; sys.path.insert(0, sys.argv[1]); import attacks, os\n"
        "try: print('loot', getattr(attacks, sys.argv[2])(json.loads(sys.argv[3])))\n"
        "except PermissionError as error: print('kernel', error)\n"
        "except OSError as error: print('kernel' if error.errno == 38 else 'failed', error)\n"
    )
    told = json.dumps(world.told())
    copy = world.folder / "copy"
    shutil.copytree(folder, copy, dirs_exist_ok=True)
    said = world.folder / "said"
    with said.open("w") as output:  # no pipe, which a daemon would keep open
        subprocess.run([sys.executable, "-c", code, str(copy), attack, told], stdout=output, stderr=output, timeout=60)
    found = said.read_text()
    time.sleep(0.1)

    harm = world.harm()
    for pid in world.left():
        os.kill(pid, 9)
    if found.startswith("kernel") and attack in ROOTS | SWITCHED_OFF:
        pytest.skip(f"not on this machine: {found}")
    assert harm or (found.startswith("loot") and found.strip() != "loot None"), found
