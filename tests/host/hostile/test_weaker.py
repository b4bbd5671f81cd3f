"""The same attacks within weaker walls: those of an ordinary user, without `/proc`, and Landlock alone."""

import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from flash.host.child import landlock
from flash.host.sandbox import found

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="the walls are Linux's")]

ROOT = Path(__file__).parents[3]
NOBODY = 60_950
AS_NOBODY = f"""
set -e
home=$1; closed=$2; shift 2
if [ -n "$closed" ]; then
  mount --make-rprivate /
  keep=$(mktemp -d); mount --bind "$home" "$keep"
  mount -t tmpfs -o mode=755 none "$closed"
  mkdir -p "$home"; mount --move "$keep" "$home"
fi
exec setpriv --reuid={NOBODY} --regid={NOBODY} --clear-groups --no-new-privs --inh-caps=-all --bounding-set=-all "$@"
"""
"""In a mount namespace of its own, where an interpreter in root's home can be read by all."""


@pytest.fixture
def base() -> Iterator[Path]:
    """A folder that anybody can get to."""
    made = Path(tempfile.mkdtemp(prefix="flash-weaker-"))
    yield made
    shutil.rmtree(made)


def attacked(walls: str, base: Path, *, as_nobody: bool, by: str = "hostile/test_attacks.py") -> str:
    """What pytest says at the end."""
    home = os.path.realpath(sys.base_prefix)
    closed = [str(place) for place in Path(home).parents if not place.stat().st_mode & stat.S_IXOTH]
    command = [
        sys.executable, "-B", "-m", "pytest", "-q", "-p", "no:cacheprovider", "--basetemp", f"{base}/pytest",
        str(Path(__file__).parents[1] / by),
    ]  # fmt: skip
    if as_nobody:
        os.chown(base, NOBODY, NOBODY)
        command = ["unshare", "--mount", "/bin/sh", "-c", AS_NOBODY, "sh", home, closed[-1] if closed else "", *command]
    variables = {**os.environ, "FLASH_HOSTILE_WALLS": walls, "HOME": str(base)}
    ended = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=600, check=False)
    said = ended.stdout[-4_000:] + ended.stderr[-2_000:]
    assert ended.returncode == 0, said
    return said


def passed(said: str) -> int:
    count = re.search(r"(\d+) passed", said)
    return int(count[1]) if count else 0


@pytest.mark.skipif(landlock.abi() < landlock.SCOPED_SINCE, reason="Landlock alone is no sandbox on this kernel")
def test_landlock_alone(base: Path) -> None:
    assert passed(attacked("landlock", base, as_nobody=False)) >= 80


@pytest.mark.skipif(not found().bwrap, reason="bubblewrap does not work here")
def test_without_proc(base: Path) -> None:
    assert passed(attacked("no proc", base, as_nobody=False)) >= 80


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("setpriv"), reason="only root can become somebody else")
@pytest.mark.parametrize("walls", ["user", "landlock"])
def test_as_an_ordinary_user(walls: str, base: Path) -> None:
    assert passed(attacked(walls, base, as_nobody=True)) >= 80


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("setpriv"), reason="only root can become somebody else")
def test_installs_of_an_ordinary_user(base: Path) -> None:
    """In its namespaces, and within Landlock alone."""
    assert passed(attacked("user", base, as_nobody=True, by="test_installing.py")) >= 20
