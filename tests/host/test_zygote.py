"""What the child that loads an environment is made of."""

import ast
import subprocess
import sys
from pathlib import Path

import envsdk
from flash.host import zygote


def imported(file: Path) -> set[str]:
    """The packages that a file names in its imports."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").partition(".")[0])
    return found


def test_the_zygote_imports_the_standard_library_msgspec_and_envsdk() -> None:
    assert imported(Path(zygote.__file__)) - sys.stdlib_module_names == {"msgspec", "envsdk"}


def test_envsdk_imports_the_standard_library_only() -> None:
    files = Path(envsdk.__file__).parent.rglob("*.py")

    assert set().union(*map(imported, files)) - sys.stdlib_module_names == {"envsdk"}


def test_the_zygote_starts_without_site_packages_and_leaves_when_its_parent_hangs_up() -> None:
    library = [str(Path(str(module.__file__)).parent.parent) for module in (zygote.msgspec, envsdk)]

    ended = subprocess.run(
        [sys.executable, "-I", "-S", "-B", zygote.__file__, "0", *library],
        stdin=subprocess.PIPE,
        timeout=20,
        check=False,
    )

    assert ended.returncode == 1  # stdin is no socket: it came as far as the channel
