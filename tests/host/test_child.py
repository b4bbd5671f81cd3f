"""What the child that loads an environment is made of."""

import ast
import subprocess
import sys
from pathlib import Path

import msgspec

import envsdk
from flash.host import child


def imported(file: Path) -> set[str]:
    """The packages that a file names in its imports."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add((node.module or "").partition(".")[0])
    return found


FOLDER = Path(str(child.__file__)).parent


def test_the_child_imports_the_standard_library_msgspec_and_envsdk() -> None:
    assert set().union(*map(imported, FOLDER.glob("*.py"))) - sys.stdlib_module_names == {"msgspec", "envsdk"}


def test_envsdk_imports_the_standard_library_only_but_for_what_speaks_with_an_installed_package() -> None:
    files = [file for file in Path(envsdk.__file__).parent.rglob("*.py") if "installed" not in file.parts]

    assert set().union(*map(imported, files)) - sys.stdlib_module_names == {"envsdk"}


def test_the_child_starts_without_site_packages_and_leaves_when_its_parent_hangs_up() -> None:
    library = [str(Path(str(module.__file__)).parent.parent) for module in (msgspec, envsdk)]

    ended = subprocess.run(
        [sys.executable, "-I", "-S", "-B", str(FOLDER / "__main__.py"), "starting", "0", *library],
        stdin=subprocess.PIPE,
        timeout=20,
        check=False,
    )

    assert ended.returncode == 1  # stdin is no socket: it came as far as the channel
