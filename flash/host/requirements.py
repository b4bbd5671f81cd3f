"""Requirement sets: the packages that an environment asks for, installed once into a folder that nobody changes.

    FOLDER/<key>/           a set, complete in itself: all that its packages need is in it too; read-only
    FOLDER/.<key>.lock      held by who installs it
    FOLDER/.<key>-XXXX/     being installed; it is renamed when it is done, and never used before
    FOLDER/.cache/          the installer's downloads

The key is the sha256 of the requirements in normal form, the platform's constraints, Python, the machine's kind, the
installer and whether it builds, so that another of any of them makes another set.

The installer is uv where there is one, else pip. It runs within walls (`installing`), with what it needs to find an
index (`indexes`) and nothing else of our environment variables. It takes wheels only. Where an operator has it build
source distributions as well, and wheels alone do not do, it tries again with a cache that nobody else uses: what is
built runs its own code, which could change what lies in a cache.
"""

import asyncio
import hashlib
import importlib.util
import os
import platform
import shutil
import stat
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec

from flash.config.requirements import constraints, normal_form, without_credentials
from flash.contracts.values import Fault
from flash.errors import ConfigError
from flash.host.indexes import Indexes
from flash.host.installing import USUAL, Allowance, Ended, Exceeded, Workplace, installed
from flash.host.sandbox import Layers, chosen, remove_tree
from flash.host.spec import LoadFailed
from flash.locks import alone

LINES_TOLD = 20
"""Of what the installer said last."""

_PYTHON = os.path.realpath(sys.executable)
"""Without the virtual environment that it may belong to, of which a set takes nothing."""
_WHEELS_ONLY = "wheels are taken, source distributions are not; FLASH_BUILD_SOURCES=1 of a scorer has it build them"


class Unsound(Exception):
    """What was installed cannot be a set; the text says why."""


class InstallFailed(LoadFailed):
    """A requirement set cannot be had. Its fault's `traceback` is what the installer said last."""

    @property
    def brief(self) -> str:
        """In one line."""
        last = self.fault.traceback.rpartition("\n")[2].strip()
        return f"{self.fault.message}: {last}" if last else self.fault.message


@dataclass(frozen=True)
class Installer:
    """A program that installs packages."""

    name: str
    version: str
    command: tuple[str, ...]
    beside: str = ""
    """A folder that it looks through when it starts."""

    @property
    def downloads_itself(self) -> bool:
        """Else what it starts does so too."""
        return self.name == "uv"

    @property
    def readable(self) -> list[str]:
        return [word for word in (*self.command, self.beside) if os.path.isabs(word)]

    @classmethod
    def found(cls) -> "Installer":
        """uv, else pip. Raises InstallFailed where there is neither."""
        if importlib.util.find_spec("uv"):
            from uv import find_uv_bin

            return cls("uv", version("uv"), (os.path.realpath(find_uv_bin()), "pip", "install"))
        if program := shutil.which("uv"):
            return cls("uv", _digest_of(program), (os.path.realpath(program), "pip", "install"))
        if (pip := importlib.util.find_spec("pip")) and pip.origin:
            program = os.path.dirname(pip.origin)
            return cls("pip", version("pip"), (_PYTHON, "-I", program, "install"), beside=os.path.dirname(program))
        raise _failed(f"environment.pip needs an installer, but {sys.prefix} has neither uv nor pip: install uv there")

    def arguments(
        self, requirements: Iterable[str], target: Path, constraints: Path, *, builds: bool, no_index: bool
    ) -> list[str]:
        own = (
            # copied, not linked: a file of the set shares nothing with the cache or with another set
            ["--python", _PYTHON, "--compile-bytecode", "--link-mode", "copy", "--no-progress"]
            if self.name == "uv"
            else ["--no-input", "--disable-pip-version-check", "--progress-bar", "off", "--no-warn-script-location"]
        )
        return [
            *self.command, *own, "--target", str(target), "--constraint", str(constraints),
            *([] if builds else ["--only-binary", ":all:"]), *(["--no-index"] if no_index else []), *requirements,
        ]  # fmt: skip


class RequirementSets:
    """The sets of this machine. Processes that share the folder install each set once among them."""

    def __init__(
        self,
        folder: Path,
        *,
        timeout_s: float = 600.0,
        builds: bool = False,
        allowance: Allowance = USUAL,
        layers: Layers | None = None,
        say: Callable[[str], object] = lambda text: None,
    ) -> None:
        """`builds`: what has no wheel is built from its source distribution, which runs the package's own code.

        `layers`: the walls around the installer; None: what `FLASH_SANDBOX` says.
        """
        self._folder, self._timeout_s, self._builds, self._say = folder.absolute(), timeout_s, builds, say
        self._allowance, self._layers = allowance, layers

    async def folder(self, requirements: Iterable[str]) -> Path | None:
        """The set of these requirements, installed if it is not there yet; None for none.

        Raises InstallFailed, which is a LoadFailed, for what cannot be a requirement, and for what cannot be installed
        within `timeout_s`. Whoever gives up waiting takes the installer with them.
        """
        try:
            wanted = normal_form(requirements)
        except ConfigError as error:
            raise _failed(str(error)) from error
        if not wanted:
            return None
        installer = Installer.found()
        key = _key(wanted, installer, self._builds)
        folder = self._folder / key
        if folder.is_dir():
            return folder
        try:
            async with asyncio.timeout(self._timeout_s), alone(self._folder / f".{key}.lock"):
                if not folder.is_dir():
                    await self._install(wanted, installer, key)
        except TimeoutError:
            found = f"environment.pip {_named(wanted)} was not installed within {self._timeout_s:g} s"
            raise _failed(found) from None
        return folder

    async def _install(self, wanted: list[str], installer: Installer, key: str) -> None:
        for left in self._folder.glob(f".{key}-*"):  # by an installer that was killed
            await asyncio.to_thread(remove_tree, left)
        self._say(f"installing {len(wanted)} requirement{'s' * (len(wanted) > 1)} of environment.pip ...")
        found = f"environment.pip {_named(wanted)} cannot be installed"
        try:
            ended = await self._tried(wanted, installer, key, builds=False)
            if ended.status and self._builds:
                self._say("building what has no wheel ...")
                ended = await self._tried(wanted, installer, key, builds=True)
        except (Exceeded, Unsound, ConfigError) as error:
            raise _failed(f"{found}: {error}") from error
        if ended.status:
            found = f"{found}: {installer.name} ended with {ended.status}"
            raise _failed(found if self._builds else f"{found} ({_WHEELS_ONLY})", ended.output)

    async def _tried(self, wanted: list[str], installer: Installer, key: str, *, builds: bool) -> Ended:
        """With status 0 the set is there. Raises Exceeded, Unsound and ConfigError."""
        scratch = Path(tempfile.mkdtemp(prefix=f".{key}-", dir=self._folder))
        try:
            target, work, told = scratch / "set", scratch / "work", scratch / "constraints.txt"
            cache = work / "cache" if builds else self._folder / ".cache"
            own = Path(os.environ["UV_CACHE_DIR"]) if os.environ.get("UV_CACHE_DIR") and not builds else cache / "uv"
            shared = [] if builds else [cache, own]
            for folder in (target, work, *shared):
                folder.mkdir(parents=True, exist_ok=True)
            told.write_text("\n".join(constraints()))
            os.chmod(scratch, 0o755)
            indexes, layers = Indexes.of(os.environ), self._layers or chosen()
            command = installer.arguments(wanted, target, told, builds=builds, no_index=indexes.no_index)
            variables = {
                **(indexes.without_proxies() if layers.walls == "bwrap" else indexes.variables),
                "PIP_CACHE_DIR": str(cache / "pip"), "UV_CACHE_DIR": str(own), "HOME": str(work), "TMPDIR": str(work),
            }  # fmt: skip
            ended = await installed(
                command, variables,
                at=Workplace(work, [target], shared=shared),
                readable=[str(told), *installer.readable],
                indexes=indexes, allowance=self._allowance, layers=layers, builds=builds,
                alone=installer.downloads_itself,
            )  # fmt: skip
            if not ended.status:
                await asyncio.to_thread(_seal, target)
                target.rename(self._folder / key)
                (self._folder / key).chmod(0o555)  # not before: to rename a folder one must be allowed to write to it
            return ended
        finally:
            await asyncio.to_thread(remove_tree, scratch)


def _key(requirements: list[str], installer: Installer, builds: bool) -> str:
    parts: list[Any] = [
        requirements, constraints(), platform.python_implementation(), sysconfig.get_config_var("SOABI"),
        platform.python_version(), sysconfig.get_platform(), installer.name, installer.version, builds,
    ]  # fmt: skip
    # By this word in its path dill, and so every dataset of Hugging Face, knows a library from what it has to pickle.
    return f"site-packages-{hashlib.sha256(msgspec.json.encode(parts)).hexdigest()}"


def _digest_of(program: str) -> str:
    """Which uv it is, without asking it."""
    found = os.stat(program)
    return f"{found.st_size}-{int(found.st_mtime)}"


def _seal(folder: Path) -> None:
    """Everything in the folder is ours, anybody may read it, and nobody may write to it. Raises Unsound."""
    waiting = [str(folder)]
    try:
        while waiting:
            place = waiting.pop()
            mode = os.lstat(place).st_mode
            if os.lstat(place).st_uid != os.getuid():
                os.chown(place, os.getuid(), os.getgid(), follow_symlinks=False)
            if stat.S_ISDIR(mode):
                os.chmod(place, 0o755 if place == str(folder) else 0o555)
                waiting += [entry.path for entry in os.scandir(place)]
            elif stat.S_ISREG(mode):
                os.chmod(place, 0o555 if mode & stat.S_IXUSR else 0o444)
            elif not stat.S_ISLNK(mode) or place == str(folder):
                raise Unsound(f"{os.path.relpath(place, folder)} in the set is neither a file nor a folder")
    except OSError as error:
        raise Unsound(f"what it wrote cannot be looked through: {error.strerror}") from error


def _named(requirements: list[str]) -> str:
    text = ", ".join(requirements)
    return f"[{text if len(text) <= 200 else text[:197] + '...'}]"


def _failed(message: str, output: str = "") -> InstallFailed:
    lines = without_credentials(output).rstrip().splitlines()[-LINES_TOLD:]
    return InstallFailed(Fault(kind="load-failed", message=message, traceback="\n".join(lines)))
