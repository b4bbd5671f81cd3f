"""A group of our own, where this machine lets us make one; and what version 2 is told, by a tree like the kernel's."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from flash.host.sandbox import cgroup

real = pytest.mark.skipif(not cgroup.works(), reason="no cgroup that this process may divide")


@real
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


@real
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


@real
def test_a_removed_group_is_gone() -> None:
    group = cgroup.Cgroup.make(memory_bytes=1 << 30, processes=8)
    assert group is not None
    assert all(place.is_dir() for place in group._places)

    group.remove()

    assert not any(place.exists() for place in group._places)


OF_A_GROUP = ("cgroup.procs", "cgroup.kill", "memory.max", "memory.swap.max", "memory.oom.group", "pids.max")


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hierarchy of version 2 in which we are in /user/app/ours. Folders get their files as the kernel's do, and go
    with them; what the kernel does about them is nowhere."""
    make = Path.mkdir

    def mkdir(folder: Path, *args: object, **options: object) -> None:
        make(folder, *args, **options)  # type: ignore[arg-type]
        for name in OF_A_GROUP:
            (folder / name).touch()
        (folder / "memory.events").write_text("low 0\nhigh 0\nmax 7\noom 2\noom_kill 2\noom_group_kill 0\n")

    monkeypatch.setattr(Path, "mkdir", mkdir)
    monkeypatch.setattr(Path, "rmdir", shutil.rmtree)
    monkeypatch.setattr(cgroup, "_ROOT", tmp_path / "hierarchy")
    monkeypatch.setattr(cgroup, "_OURS", tmp_path / "ours")
    (tmp_path / "ours").write_text("0::/user/app/ours\n")
    made = tmp_path / "hierarchy" / "user" / "app" / "ours"
    make(made, parents=True)
    (made / "cgroup.subtree_control").write_text("\n")
    (made.parent / "cgroup.subtree_control").write_text("cpu memory pids\n")
    return made.parent


def test_groups_of_version_2_are_made_beside_us_where_that_level_divides_memory_and_processes(tree: Path) -> None:
    assert list(cgroup._candidates()) == [(tree,)]

    (tree / "cgroup.subtree_control").write_text("cpu pids\n")
    assert list(cgroup._candidates()) == []


def test_groups_of_version_2_are_made_below_us_where_we_divide_ourselves(tree: Path) -> None:
    (tree / "ours" / "cgroup.subtree_control").write_text("memory pids\n")

    assert next(cgroup._candidates()) == (tree / "ours",)


def test_where_both_versions_are_there_the_first_has_what_the_second_has_not(tree: Path, tmp_path: Path) -> None:
    (tree / "cgroup.subtree_control").write_text("hugetlb\n")
    (tmp_path / "ours").write_text("8:pids:/\n4:memory:/some/where\n0::/user/app/ours\n")

    assert list(cgroup._candidates()) == [(cgroup._ROOT / "memory/some/where", cgroup._ROOT / "pids")]


def test_a_group_of_version_2_is_told_its_bounds_and_has_no_swap(tree: Path) -> None:
    group = cgroup.Cgroup._in((tree,), memory_bytes=1 << 30, processes=72)
    [place] = group._places

    told = {name: (place / name).read_text() for name in OF_A_GROUP if (place / name).stat().st_size}
    assert told == {"memory.max": "1073741824", "memory.swap.max": "0", "memory.oom.group": "0", "pids.max": "72"}
    assert not (place / "memory.limit_in_bytes").exists()
    assert group.killed_for_memory() == 2
    group.add(4711)
    group.kill()
    assert ((place / "cgroup.procs").read_text(), (place / "cgroup.kill").read_text()) == ("4711", "1")
    group.remove()
    assert not place.exists()


def test_a_group_that_cannot_be_bounded_is_not_left_behind(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = Path.write_text

    def refused(file: Path, text: str) -> int:
        if file.name == "memory.swap.max":
            raise PermissionError(13, "Permission denied")
        return write(file, text)

    monkeypatch.setattr(Path, "write_text", refused)

    with pytest.raises(PermissionError):
        cgroup.Cgroup._in((tree,), memory_bytes=1 << 30, processes=72)

    assert not list(tree.glob("flash-*"))


def test_groups_of_the_dead_are_removed_and_those_of_the_living_are_not(tree: Path) -> None:
    names = (f"flash-{2**30}-abc", f"flash-{os.getpid()}-abc", "flash-other")
    for name in names:
        (tree / name).mkdir()

    cgroup._tidy(tree)

    assert sorted(path.name for path in tree.glob("flash-*")) == sorted(names[1:])


WITH_ITS_KERNEL = """
import os, subprocess, sys
from pathlib import Path
from flash.host.sandbox.cgroup import Cgroup
group = Cgroup._in((Path(sys.argv[1]),), memory_bytes=1 << 30, processes=8)
[place] = group._places
code = "import os, time\\ninput()\\nfor _ in range(3): os.fork()\\nos.setsid()\\nprint(flush=True)\\ntime.sleep(60)"
process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
group.add(process.pid)
process.stdin.write(b"\\n"); process.stdin.close()
for _ in range(8): process.stdout.readline()
assert len(group._pids(place)) == 8
group.kill()
assert process.wait(10) == -9
group.remove()
assert not place.exists()
print("gone")
"""


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("unshare"), reason="only root may mount")
def test_the_kernel_kills_a_group_of_version_2_at_once(tmp_path: Path) -> None:
    """Without memory and pids, which a machine with version 1 keeps there."""
    (tmp_path / "two").mkdir()
    mounting = 'mount -t cgroup2 none "$1" || exit 77; exec "$2" -c "$3" "$1"'

    ended = subprocess.run(
        ["unshare", "--mount", "/bin/sh", "-c", mounting, "sh", str(tmp_path / "two"), sys.executable, WITH_ITS_KERNEL],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip

    if ended.returncode == 77:
        pytest.skip(f"no cgroup of version 2 can be mounted: {ended.stderr}")
    assert ended.stdout == "gone\n", ended.stderr
