"""Wheels and source distributions made on the fly, and a folder of them that stands for the package index."""

import io
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path


def wheel(
    folder: Path, name: str, version: str, files: Mapping[str, str] | None = None, needs: tuple[str, ...] = ()
) -> None:
    """A pure-Python wheel with these files; without any, a module of that name that knows its version."""
    files = files or {f"{name}.py": f"VERSION = {version!r}\n"}
    info = f"{name}-{version}.dist-info"
    requires = "".join(f"Requires-Dist: {need}\n" for need in needs)
    about = {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{requires}",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as archive:
        for path, text in {**files, **about}.items():
            archive.writestr(path, text)
        record = "".join(f"{path},,\n" for path in (*files, *about, f"{info}/RECORD"))
        archive.writestr(f"{info}/RECORD", record)


_BACKEND = """
import zipfile

def build_wheel(folder, *_):
    module, told = "VERSION = %r\\n" % VERSION, {}
    try:
        do(folder, told)
    except Exception as error:
        told["raised"] = repr(error)
    files = {
        NAME + ".py": module + "TOLD = %r\\n" % told,
        INFO + "/METADATA": "Metadata-Version: 2.1\\nName: " + NAME + "\\nVersion: " + VERSION + "\\n",
        INFO + "/WHEEL": "Wheel-Version: 1.0\\nGenerator: tests\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n",
    }
    made = NAME + "-" + VERSION + "-py3-none-any.whl"
    with zipfile.ZipFile(folder + "/" + made, "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)
        archive.writestr(INFO + "/RECORD", "".join(path + ",,\\n" for path in (*files, INFO + "/RECORD")))
    return made
"""


def source_distribution(folder: Path, name: str, version: str, do: str = "def do(folder, told): pass") -> None:
    """A module of that name that knows its version, and needs to be built. `do(folder, told)` is done as it is built,
    and what it has put into `told` is then the module's `TOLD`."""
    known = {"NAME": name, "VERSION": version, "INFO": f"{name}-{version}.dist-info"}
    backend = "".join(f"{key} = {value!r}\n" for key, value in known.items()) + do + _BACKEND
    with tarfile.open(folder / f"{name}-{version}.tar.gz", "w:gz") as archive:
        for path, text in {
            "pyproject.toml": '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n',
            "backend.py": backend,
            "PKG-INFO": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        }.items():
            member = tarfile.TarInfo(f"{name}-{version}/{path}")
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))
