"""An environment folder as one archive: what goes in, what stays out and why, its digest, and getting it out again.

The archive is a tar of the files, sorted, of one time and owner, packed with zstandard: the same files give the same
digest. However large it is, a few megabytes of memory do.
"""

import hashlib
import io
import os
import shutil
import tarfile
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, Any, BinaryIO, cast

import zstandard

from flash import credentials
from flash.artifacts.choosing import ENTRY as ENTRY
from flash.artifacts.choosing import LeftOut, chosen, is_secret_name, module_named, never_named, require_python
from flash.contracts.environments import DEFAULT_LIMITS, ArchiveLimits
from flash.errors import Damaged, EnvironmentFault

_LEVEL = 3
"""A fifth larger than at 10, and six times as fast."""
_SPOOL_BYTES = 8 << 20
"""A larger archive lies in a file that goes with its process."""
_ALTERNATIVE = "leave large files out, or fetch them when the environment loads"
_CHUNK_BYTES = 1 << 20
_OVERHEAD_BYTES = 4 << 20
"""What headers and padding may add to the files of an archive."""


@dataclass(frozen=True)
class Included:
    path: str
    num_bytes: int


@dataclass(frozen=True)
class Manifest:
    """What is in an archive, and what was beside it."""

    included: tuple[Included, ...]
    left_out: tuple[LeftOut, ...]


@dataclass(frozen=True)
class Packed:
    """An archive."""

    file: IO[bytes]
    """Gone when this is."""
    num_bytes: int
    digest: str
    """sha256 of the archive, in hex."""
    manifest: Manifest
    _reading: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def part(self, start: int, num_bytes: int) -> bytes:
        with self._reading:
            self.file.seek(start)
            return self.file.read(num_bytes)

    @property
    def data(self) -> bytes:
        """All of it, in memory."""
        return self.part(0, self.num_bytes)


def pack(path: Path, limits: ArchiveLimits = DEFAULT_LIMITS) -> Packed:
    """Pack a folder with an `environment.py`, or a single Python file as one.

    A package as `verifiers` has them, whose `load_environment()` is in the module that its pyproject.toml names, gets
    an `environment.py` that imports it from there.
    Raises EnvironmentFault for what must not travel (links, special files, secrets) where a file would otherwise have
    been included, for a folder without `environment.py`, for an entry that is no Python, and over a limit.
    """
    try:
        return _packed(path, limits)
    except OSError as error:
        raise EnvironmentFault(f"{path} cannot be packed: {error}") from error


def unpack(archive: IO[bytes], into: Path, digest: str, limits: ArchiveLimits = DEFAULT_LIMITS) -> None:
    """Lay the archive's files into a folder that is not there yet; it appears whole or not at all.

    Raises Damaged when the digest differs, and EnvironmentFault for anything but plain files below the folder, for
    those that `pack` would never have taken, and over a limit. Does nothing when the folder is there.
    """
    if into.is_dir():
        return
    if archive.seek(0, os.SEEK_END) > limits.packed_bytes:
        raise over_packed("the archive", limits)
    archive.seek(0)
    if (found := hashlib.file_digest(cast("Any", archive), "sha256").hexdigest()) != digest:
        raise Damaged(f"the archive's digest is {found[:12]}, wanted {digest[:12]}: fetch it again")
    archive.seek(0)
    into.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f".{into.name}-", dir=into.parent))
    try:
        _extract(archive, beside, limits)
        os.chmod(beside, 0o755)
        try:
            os.rename(beside, into)
        except OSError:
            if not into.is_dir():  # else somebody else was faster, with the same content
                raise
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def over_packed(what: object, limits: ArchiveLimits) -> EnvironmentFault:
    found = f"{what} is more than {limits.packed_bytes:,} bytes packed, which is the most that is taken"
    return EnvironmentFault(f"{found} (FLASH_MAX_PACKED_BYTES of the hub and the scorers): {_ALTERNATIVE}")


def _packed(path: Path, limits: ArchiveLimits) -> Packed:
    files, left_out = chosen(path)
    module = "" if ENTRY in files else module_named(path, files)
    if len(files) > limits.members:
        raise _over_members(f"{path} has {len(files):,} files", limits)
    sizes = {name: file.stat().st_size for name, file in files.items()}
    _check_size(sum(sizes.values()), limits)
    file = tempfile.SpooledTemporaryFile(max_size=_SPOOL_BYTES)  # noqa: SIM115 (it goes with what is given back)
    digested = _Digested(file, limits, path)
    with (
        zstandard.ZstdCompressor(level=_LEVEL).stream_writer(cast("IO[bytes]", digested), closefd=False) as compressed,
        tarfile.TarFile(fileobj=compressed, mode="w", format=tarfile.PAX_FORMAT, copybufsize=_CHUNK_BYTES) as archive,
    ):
        for name in sorted({*files, ENTRY}):
            if name in files:
                _add(archive, name, files[name], sizes[name])
            else:
                entry = f"from {module} import load_environment as load_environment\n".encode()
                sizes[name] = len(entry)
                archive.addfile(_member(name, len(entry)), io.BytesIO(entry))
    included = tuple(Included(name, sizes[name]) for name in sorted(sizes))
    return Packed(file, digested.num_bytes, digested.digest, Manifest(included, tuple(left_out)))


def _add(archive: tarfile.TarFile, name: str, file: Path, num_bytes: int) -> None:
    with file.open("rb") as source:
        scanned = _Scanned(name, source)
        try:
            archive.addfile(_member(name, num_bytes), scanned)
        except OSError as error:
            raise EnvironmentFault(f"{name} was cut short while it was packed: pack again") from error
        if scanned.read(1):
            raise EnvironmentFault(f"{name} grew while it was packed: pack again")
    if name == ENTRY:
        require_python(file)


def _member(name: str, num_bytes: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size, member.mode = num_bytes, 0o644
    return member


def _check_size(num_bytes: int, limits: ArchiveLimits) -> None:
    if num_bytes > limits.unpacked_bytes:
        found = f"the environment is {num_bytes:,} bytes, at most {limits.unpacked_bytes:,} are taken"
        raise EnvironmentFault(f"{found} (FLASH_MAX_UNPACKED_BYTES of the hub and the scorers): {_ALTERNATIVE}")


def _over_members(found: str, limits: ArchiveLimits) -> EnvironmentFault:
    taken = f"at most {limits.members:,} are taken (FLASH_MAX_MEMBERS of the hub and the scorers)"
    return EnvironmentFault(f"{found}, {taken}: put many small files into one, for example a .jsonl")


def _extract(packed: IO[bytes], folder: Path, limits: ArchiveLimits) -> None:
    try:
        reader = zstandard.ZstdDecompressor(max_window_size=1 << 27).stream_reader(packed, closefd=False)
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
            raise _over_members(f"the archive has more than {limits.members:,} files", limits)
        if not member.isreg() or member.issparse():
            raise EnvironmentFault(f"the archive holds {member.name!r}, which is no plain file")
        name = PurePosixPath(member.name)
        unsafe = name.is_absolute() or not name.parts or ".." in name.parts
        if unsafe or "\\" in member.name or "\0" in member.name:
            raise EnvironmentFault(f"the archive names {member.name!r}, which leads out of its folder")
        if any(map(never_named, name.parts)) or is_secret_name(name.name):
            raise EnvironmentFault(f"the archive holds {member.name!r}, which is hidden or named like a secret")
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


class _Scanned(io.RawIOBase):
    """A file of the author's, looked through while it is read. Raises EnvironmentFault where it holds a credential."""

    def __init__(self, name: str, source: BinaryIO) -> None:
        self._name, self._source, self._scan = name, source, credentials.Scan()

    def read(self, size: int = -1) -> bytes:
        piece = self._source.read(size)
        if found := self._scan.feed(piece, is_last=not piece):
            kind, line = found
            raise EnvironmentFault(
                f"{self._name} line {line} holds {kind}; take it out and declare environment.secrets instead"
            )
        return piece


class _Digested(io.RawIOBase):
    """Where an archive is written, counted and digested as it comes. Raises EnvironmentFault over the limit."""

    def __init__(self, file: IO[bytes], limits: ArchiveLimits, path: Path) -> None:
        self._file, self._limits, self._path = file, limits, path
        self._digest = hashlib.sha256()
        self.num_bytes = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.num_bytes += len(data)
        if self.num_bytes > self._limits.packed_bytes:
            raise over_packed(self._path, self._limits)
        self._digest.update(data)
        return self._file.write(data)

    @property
    def digest(self) -> str:
        return self._digest.hexdigest()
