"""An environment folder as one archive: what goes in, what stays out and why, its digest, and getting it out again.

The archive is a tar of the files, sorted, of one time and owner, packed with zstandard: the same files give the same
digest.
"""

import hashlib
import io
import os
import re
import shutil
import stat
import tarfile
import tempfile
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import zstandard

from flash import credentials
from flash.errors import Damaged, EnvironmentFault

ENTRY = "environment.py"

_DATA_SUFFIXES = frozenset(
    {".jsonl", ".json", ".csv", ".txt", ".md", ".parquet", ".tsv", ".yaml", ".yml", ".bson"}
)  # fmt: skip
_PROJECT_FILES = frozenset(
    {"pyproject.toml", "uv.lock", "poetry.lock", "pdm.lock", "Pipfile", "Pipfile.lock", "package-lock.json"}
)
_SECRET_NAME = re.compile(
    r"""(?ix) ( id_(rsa|dsa|ecdsa|ed25519) | .*\.(pem|key|p12|pfx|jks|keystore|ppk|kdbx)
    | (aws_?)?credentials?(\.\w+)? | (client_)?secrets?(\.(json|ya?ml|toml|txt|csv|env))
    | service[-_]?account.*\.json | .*\.env(\..*)? )"""
)
_LEVEL = 10
_OVERHEAD_BYTES = 4 << 20
"""What headers and padding may add to the files of an archive."""


@dataclass(frozen=True)
class ArchiveLimits:
    """How large an environment may be; an operator may raise them."""

    packed_bytes: int = 64 << 20
    unpacked_bytes: int = 256 << 20
    members: int = 5_000


@dataclass(frozen=True)
class Included:
    path: str
    num_bytes: int


@dataclass(frozen=True)
class LeftOut:
    path: str
    reason: str


@dataclass(frozen=True)
class Manifest:
    """What is in an archive, and what was beside it."""

    included: tuple[Included, ...]
    left_out: tuple[LeftOut, ...]


@dataclass(frozen=True)
class Packed:
    """An archive."""

    data: bytes
    digest: str
    """sha256 of `data`, in hex."""
    manifest: Manifest


def pack(path: Path, limits: ArchiveLimits = ArchiveLimits()) -> Packed:
    """Pack a folder with an `environment.py`, or a single Python file as one.

    A package as `verifiers` has them, whose `load_environment()` is in the module that its pyproject.toml names, gets
    an `environment.py` that imports it from there.
    Raises EnvironmentFault for what must not travel (links, special files, secrets) where a file would otherwise have
    been included, for a folder without `environment.py`, and over a limit.
    """
    files, left_out = _chosen(path)
    module = "" if ENTRY in files else _module_named(path, files)
    if len(files) > limits.members:
        raise EnvironmentFault(f"{path} has {len(files)} files, at most {limits.members} can be packed")
    _check_size(sum(file.stat().st_size for file in files.values()), limits)
    contents = {name: _content(name, file) for name, file in files.items()}
    if module:
        contents[ENTRY] = f"from {module} import load_environment as load_environment\n".encode()
    contents = dict(sorted(contents.items()))
    _check_size(sum(map(len, contents.values())), limits)
    data = zstandard.ZstdCompressor(level=_LEVEL).compress(_tar(contents))
    if len(data) > limits.packed_bytes:
        raise EnvironmentFault(
            f"{path} is {len(data)} bytes packed, at most {limits.packed_bytes} are taken; "
            "fetch large data when the environment loads"
        )
    included = tuple(Included(name, len(content)) for name, content in contents.items())
    return Packed(data, hashlib.sha256(data).hexdigest(), Manifest(included, tuple(left_out)))


def unpack(data: bytes, into: Path, digest: str, limits: ArchiveLimits = ArchiveLimits()) -> None:
    """Lay the archive's files into a folder that is not there yet; it appears whole or not at all.

    Raises Damaged when the digest differs, and EnvironmentFault for anything but plain files below the folder, and over
    a limit. Does nothing when the folder is there.
    """
    if into.is_dir():
        return
    if (found := hashlib.sha256(data).hexdigest()) != digest:
        raise Damaged(f"the archive's digest is {found[:12]}, wanted {digest[:12]}: fetch it again")
    if len(data) > limits.packed_bytes:
        raise EnvironmentFault(f"the archive is {len(data)} bytes, at most {limits.packed_bytes} are taken")
    into.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f".{into.name}-", dir=into.parent))
    try:
        _extract(data, beside, limits)
        os.chmod(beside, 0o755)
        try:
            os.rename(beside, into)
        except OSError:
            if not into.is_dir():  # else somebody else was faster, with the same content
                raise
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _chosen(path: Path) -> tuple[dict[str, Path], list[LeftOut]]:
    """Files by their name in the archive, and what is not among them."""
    if path.is_file():
        if path.suffix != ".py":
            raise EnvironmentFault(f"{path} is no Python file; wanted a folder with {ENTRY}, or one file")
        return {ENTRY: path}, []
    if not path.is_dir():
        raise EnvironmentFault(f"{path} is not there; wanted a folder with {ENTRY}, or one file")
    files: dict[str, Path] = {}
    left_out: list[LeftOut] = []
    for entry in sorted(path.iterdir()):
        if reason := _reason_to_leave(entry):
            left_out.append(LeftOut(entry.name + ("/" if entry.is_dir() else ""), reason))
        elif entry.is_dir():
            _refuse_link(entry, path)
            _walk(entry, path, files, left_out)
        else:
            _refuse_odd(entry, path)
            files[entry.name] = entry
    return files, left_out


def _module_named(folder: Path, files: Mapping[str, Path]) -> str:
    """The module of this folder that is named like its project. Raises EnvironmentFault where there is none."""
    try:
        project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))
        module = str(project["project"]["name"]).replace("-", "_")
    except (OSError, ValueError, KeyError, TypeError):
        module = ""
    if not module.isidentifier() or not {f"{module}.py", f"{module}/__init__.py"} & files.keys():
        named = f", nor a {module}.py, as its pyproject.toml would have it" if module else ""
        raise EnvironmentFault(f"{folder} has no {ENTRY}, which defines load_environment(){named}")
    return module


def _reason_to_leave(entry: Path) -> str:
    """Why something at the root stays out; empty if it goes in."""
    if reason := _never(entry):
        return reason
    if entry.is_dir():
        if entry.name == "dataset" or (entry / "__init__.py").exists():
            return ""
        hint = "; Flash packs `dataset`" if entry.name == "datasets" else ""
        return f"neither `dataset` nor a Python package{hint}"
    if entry.name in _PROJECT_FILES:
        return "Flash installs nothing from it: list requirements under environment.pip"
    if entry.suffix == ".py" or entry.suffix.lower() in _DATA_SUFFIXES:
        return ""
    return "not a kind of file that environments have at their root"


def _never(entry: Path) -> str:
    """Why something stays out wherever it lies."""
    if entry.name.startswith("."):
        return "hidden"
    if entry.name == "__pycache__" or entry.suffix in (".pyc", ".pyo"):
        return "compiled Python"
    if (entry / "pyvenv.cfg").exists():
        return "a virtual environment"
    return ""


def _walk(folder: Path, root: Path, files: dict[str, Path], left_out: list[LeftOut]) -> None:
    for entry in sorted(folder.iterdir()):
        name = entry.relative_to(root).as_posix()
        if reason := _never(entry):
            left_out.append(LeftOut(name + ("/" if entry.is_dir() else ""), reason))
        elif entry.is_dir():
            _refuse_link(entry, root)
            _walk(entry, root, files, left_out)
        else:
            _refuse_odd(entry, root)
            files[name] = entry


def _refuse_link(entry: Path, root: Path) -> None:
    if entry.is_symlink():
        raise EnvironmentFault(f"{entry.relative_to(root)} is a link; put the real thing there, or remove it")


def _refuse_odd(entry: Path, root: Path) -> None:
    _refuse_link(entry, root)
    name = entry.relative_to(root)
    if not stat.S_ISREG(entry.lstat().st_mode):
        raise EnvironmentFault(f"{name} is no plain file; remove it")
    if _SECRET_NAME.fullmatch(entry.name):
        raise EnvironmentFault(f"{name} is named like a secret; take it out and declare environment.secrets instead")


def _content(name: str, file: Path) -> bytes:
    content = file.read_bytes()
    if found := credentials.in_file(content):
        kind, line = found
        raise EnvironmentFault(f"{name} line {line} holds {kind}; take it out and declare environment.secrets instead")
    return content


def _check_size(num_bytes: int, limits: ArchiveLimits) -> None:
    if num_bytes > limits.unpacked_bytes:
        raise EnvironmentFault(
            f"the environment is {num_bytes} bytes, at most {limits.unpacked_bytes} are taken; "
            "fetch large data when the environment loads"
        )


def _tar(contents: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, content in contents.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), 0o644
            archive.addfile(member, io.BytesIO(content))
    return packed.getvalue()


def _extract(data: bytes, folder: Path, limits: ArchiveLimits) -> None:
    try:
        reader = zstandard.ZstdDecompressor(max_window_size=1 << 27).stream_reader(data)
        bounded: Any = _Bounded(reader, limits.unpacked_bytes + _OVERHEAD_BYTES)
        with tarfile.open(fileobj=bounded, mode="r|") as archive:
            for name, member in _members(archive, limits):
                file = folder.joinpath(*name.parts)
                file.parent.mkdir(parents=True, exist_ok=True)
                source = archive.extractfile(member)
                if source is None or file.exists():
                    raise EnvironmentFault(f"the archive names {name} twice, or has nothing for it")
                with file.open("xb") as target:
                    shutil.copyfileobj(source, target)
    except (tarfile.TarError, zstandard.ZstdError, EOFError, OSError) as error:
        raise EnvironmentFault(f"the archive cannot be read: {error}") from error
    if not (folder / ENTRY).is_file():
        raise EnvironmentFault(f"the archive has no {ENTRY} at its root")


def _members(archive: tarfile.TarFile, limits: ArchiveLimits) -> Iterator[tuple[PurePosixPath, tarfile.TarInfo]]:
    """The archive's files, each with a name that is sure to stay below the folder."""
    num_bytes = 0
    for count, member in enumerate(archive, start=1):
        if count > limits.members:
            raise EnvironmentFault(f"the archive has more than {limits.members} files")
        if not member.isreg() or member.issparse():
            raise EnvironmentFault(f"the archive holds {member.name!r}, which is no plain file")
        name = PurePosixPath(member.name)
        unsafe = name.is_absolute() or not name.parts or ".." in name.parts
        if unsafe or "\\" in member.name or "\0" in member.name:
            raise EnvironmentFault(f"the archive names {member.name!r}, which leads out of its folder")
        num_bytes += member.size
        _check_size(num_bytes, limits)
        yield name, member


class _Bounded(io.RawIOBase):
    """A reader that gives up after so many bytes: a small archive may unpack into a very large one."""

    def __init__(self, reader: Any, num_bytes: int) -> None:
        self._reader, self._left = reader, num_bytes

    def read(self, size: int = -1) -> bytes:
        data: bytes = self._reader.read(min(size, self._left + 1) if size >= 0 else self._left + 1)
        self._left -= len(data)
        if self._left < 0:
            raise EnvironmentFault("the archive unpacks into more than an environment may have")
        return data
