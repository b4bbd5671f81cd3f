"""Requirement sets: the packages that an environment asks for, installed once into a folder that nobody changes.

    FOLDER/<key>/           a set, complete in itself: all that its packages need is in it too; read-only
    FOLDER/.<key>.lock      held by who installs it
    FOLDER/.<key>-XXXX/     being installed; it is renamed when it is done, and never used before
    FOLDER/.cache/          the installer's downloads

The key is the sha256 of the requirements in normal form, the platform's constraints, Python, the machine's kind, the
installer and whether it builds, so that another of any of them makes another set.

The installer is uv where there is one, else pip. It runs with what it needs to find an index and nothing else of our
environment variables, and takes wheels only, unless an operator has it build source distributions as well: that runs
their code here, outside of any sandbox. pip's configuration (files and `PIP_*` variables) says where the index is, to
uv too unless `UV_*` says more.
"""

import asyncio
import configparser
import contextlib
import fcntl
import hashlib
import importlib.util
import os
import platform
import shutil
import signal
import stat
import sys
import sysconfig
import tempfile
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec

from flash.config.requirements import constraints, normal_form, without_credentials
from flash.contracts.values import Fault
from flash.errors import ConfigError
from flash.host.spec import LoadFailed

LINES_TOLD = 20
"""Of what the installer said last."""

_LOCK_ASKED_S = 0.1
_WHEELS_ONLY = "wheels are taken, source distributions are not; FLASH_BUILD_SOURCES=1 of a scorer has it build them"
_PASSED_ON = {
    "PATH", "LANG", "SSL_CERT_FILE", "SSL_CERT_DIR", "SSL_CLIENT_CERT", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE",
    "NETRC", "XDG_CONFIG_DIRS", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "http_proxy", "https_proxy",
    "all_proxy", "no_proxy", "PIP_CLIENT_CERT", "PIP_PROXY", "PIP_DEFAULT_TIMEOUT", "PIP_RETRIES", "UV_DEFAULT_INDEX",
    "UV_INDEX", "UV_INDEX_URL", "UV_EXTRA_INDEX_URL", "UV_FIND_LINKS", "UV_INDEX_STRATEGY", "UV_INSECURE_HOST",
    "UV_OFFLINE", "UV_CONFIG_FILE", "UV_HTTP_TIMEOUT", "UV_SYSTEM_CERTS", "UV_NATIVE_TLS", "UV_CACHE_DIR",
}  # fmt: skip
_UVS = {"index_url": "UV_DEFAULT_INDEX", "extra_index_url": "UV_INDEX", "find_links": "UV_FIND_LINKS",
        "trusted_host": "UV_INSECURE_HOST", "cert": "SSL_CERT_FILE"}  # fmt: skip
"""pip's settings, and the variables by which uv knows them."""


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

    @classmethod
    def found(cls) -> "Installer":
        """uv, else pip. Raises InstallFailed where there is neither."""
        if importlib.util.find_spec("uv"):
            return cls("uv", version("uv"), (sys.executable, "-I", "-m", "uv", "pip", "install"))
        if program := shutil.which("uv"):
            return cls("uv", _digest_of(program), (program, "pip", "install"))
        if importlib.util.find_spec("pip"):
            return cls("pip", version("pip"), (sys.executable, "-I", "-m", "pip", "install"))
        raise _failed(f"environment.pip needs an installer, but {sys.prefix} has neither uv nor pip: install uv there")

    def arguments(
        self, requirements: Iterable[str], target: Path, constraints: Path, *, builds: bool, no_index: bool
    ) -> list[str]:
        own = (
            # copied, not linked: a file of the set shares nothing with the cache or with another set
            ["--python", sys.executable, "--compile-bytecode", "--link-mode", "copy", "--no-progress"]
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
        say: Callable[[str], object] = lambda text: None,
    ) -> None:
        """`builds`: what has no wheel is built from its source distribution, which runs the package's own code."""
        self._folder, self._timeout_s, self._builds, self._say = folder, timeout_s, builds, say

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
            async with asyncio.timeout(self._timeout_s), self._alone(key):
                if not folder.is_dir():
                    await self._install(wanted, installer, key)
        except TimeoutError:
            found = f"environment.pip {_named(wanted)} was not installed within {self._timeout_s:g} s"
            raise _failed(found) from None
        return folder

    @asynccontextmanager
    async def _alone(self, key: str) -> AsyncIterator[None]:
        """Nobody else on this machine installs the set meanwhile; the system frees the lock when a process dies."""
        self._folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(self._folder / f".{key}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    await asyncio.sleep(_LOCK_ASKED_S)
            yield
        finally:
            os.close(lock)

    async def _install(self, wanted: list[str], installer: Installer, key: str) -> None:
        for left in self._folder.glob(f".{key}-*"):  # by an installer that was killed
            await asyncio.to_thread(shutil.rmtree, left, ignore_errors=True)
        self._say(f"installing {len(wanted)} requirement{'s' * (len(wanted) > 1)} of environment.pip ...")
        scratch = Path(tempfile.mkdtemp(prefix=f".{key}-", dir=self._folder))
        try:
            target = scratch / "set"
            target.mkdir()
            (scratch / "constraints.txt").write_text("\n".join(constraints()))
            variables, no_index = _variables(os.environ, scratch, self._folder / ".cache")
            files = target, scratch / "constraints.txt"
            command = installer.arguments(wanted, *files, builds=self._builds, no_index=no_index)
            status, output = await _run(command, variables, scratch)
            if status:
                found = f"environment.pip {_named(wanted)} cannot be installed: {installer.name} ended with {status}"
                raise _failed(found if self._builds else f"{found} ({_WHEELS_ONLY})", output)
            await asyncio.to_thread(_seal, target)
            target.rename(self._folder / key)
            (self._folder / key).chmod(0o555)  # not before: to rename a folder one must be allowed to write to it
        finally:
            await asyncio.to_thread(shutil.rmtree, scratch, ignore_errors=True)


async def _run(command: list[str], variables: Mapping[str, str], folder: Path) -> tuple[int, str]:
    """What a program's exit status is, and what it said. Cancelled, it is killed with all it has started."""
    process = await asyncio.create_subprocess_exec(
        *command, cwd=folder, env=variables, start_new_session=True,
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    try:
        output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
    return process.returncode or 0, output.decode("utf-8", "replace")


def _variables(ours: Mapping[str, str], scratch: Path, cache: Path) -> tuple[dict[str, str], bool]:
    """What the installer is told of our environment, and whether it may ask an index at all."""
    pips = _pip_settings(ours)
    given = {name: value for name, value in ours.items() if name in _PASSED_ON or _is_login(name)}
    if not {"UV_INDEX", "UV_EXTRA_INDEX_URL"} & given.keys() and "extra_index_url" in pips:
        given.setdefault("UV_INDEX_STRATEGY", "unsafe-best-match")  # as pip: all indexes are equal
    for key, name in _UVS.items():
        if key in pips:
            given[f"PIP_{key.upper()}"] = pips[key]
            given.setdefault(name, pips[key].replace(" ", ",") if key == "find_links" else pips[key])
    no_index = pips.get("no_index", ours.get("UV_NO_INDEX", "")).lower() in ("1", "true", "yes", "on")
    home = {"HOME": str(scratch), "TMPDIR": str(scratch), "PIP_CONFIG_FILE": os.devnull}
    # uv reads its own files; pip's have been read.
    uvs = {"XDG_CONFIG_HOME": ours.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")}
    caches = {"PIP_CACHE_DIR": str(cache / "pip"), "UV_CACHE_DIR": str(cache / "uv")}
    return {"LANG": "C.UTF-8", **caches, **given, **home, **uvs}, no_index


def _pip_settings(ours: Mapping[str, str]) -> dict[str, str]:
    """pip's settings on where packages are: from its files, then from its variables. Several values stand apart by a
    space."""
    configured = ours.get("PIP_CONFIG_FILE")
    user = Path(ours.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    files = [Path("/etc/pip.conf"), Path.home() / ".pip/pip.conf", user / "pip/pip.conf", Path(sys.prefix, "pip.conf")]
    found: dict[str, str] = {}
    for file in [] if configured == os.devnull else [*files, *([Path(configured)] if configured else [])]:
        parser = configparser.RawConfigParser()
        with contextlib.suppress(configparser.Error, UnicodeDecodeError):
            parser.read(file)
        for section in ("global", "install"):
            if parser.has_section(section):
                found |= {key.replace("-", "_"): value for key, value in parser.items(section)}
    found |= {name[4:].lower(): value for name, value in ours.items() if name.startswith("PIP_") and value}
    return {key: " ".join(found[key].split()) for key in (*_UVS, "no_index") if found.get(key)}


def _is_login(name: str) -> bool:
    """uv's name and password for an index of the operator's."""
    return name.startswith("UV_INDEX_") and name.endswith(("_USERNAME", "_PASSWORD"))


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
    """Nobody may write to what is in the folder."""
    for place, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(place, name)
            if not path.is_symlink():
                path.chmod(stat.S_IMODE(path.stat().st_mode) & ~0o222 | 0o444)


def _named(requirements: list[str]) -> str:
    text = ", ".join(requirements)
    return f"[{text if len(text) <= 200 else text[:197] + '...'}]"


def _failed(message: str, output: str = "") -> InstallFailed:
    lines = without_credentials(output).rstrip().splitlines()[-LINES_TOLD:]
    return InstallFailed(Fault(kind="load-failed", message=message, traceback="\n".join(lines)))
