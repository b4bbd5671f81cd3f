"""What the commands on environments share: the author's package as a run gets it, its config, and a host."""

import asyncio
import tempfile
from argparse import Namespace
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cli import output
from cli.environments import full_id
from flash.artifacts import ENTRY, Packed, pack, unpack
from flash.artifacts.copies import holding
from flash.config.checking import not_carried
from flash.config.keys import RunConfig
from flash.config.overlay import merged, parsed
from flash.config.run import load
from flash.config.secrets import Found, find
from flash.config.settings import ArchiveSettings
from flash.contracts.environments import ENVIRONMENT_ID
from flash.errors import ConfigError, NotFound
from flash.host import Host, HostSpec, Limits, LoadFailed, RequirementSets

LOAD_S = 120.0
"""How long `load_environment()` may take."""

CONFIGS = ("configs/rl.toml", "configs/sft.toml")
"""Where a project's config is looked for, in this order."""


@dataclass(frozen=True)
class Setup:
    """How the environment is loaded, and what it is asked for."""

    params: Mapping[str, Any] = field(default_factory=dict)
    pip: Sequence[str] = ()
    network: Sequence[str] = ()
    worker_env: Mapping[str, str] = field(default_factory=dict)
    secrets: Found = field(default_factory=Found)
    thinking: bool = False
    algorithm: str = ""
    """Of the config; empty where there is none."""
    config: Path | None = None


@dataclass(frozen=True)
class Package:
    """An environment's files on this machine, unpacked as a run unpacks them."""

    folder: Path
    name: str
    digest: str
    """Of its archive."""
    packed: Packed | None = None
    """None where the hub had it."""


def setup(reference: str, options: Namespace) -> Setup:
    """What `--config`, or else the environment's own config, and each `--param` say. Raises ConfigError.

    Its own lies beside it, or, where it is named by its id, in the current folder, for that id or for none yet.
    """
    given = _params(options.params)
    beside = _project(reference)
    found = options.config or next((beside / name for name in CONFIGS if (beside / name).is_file()), None)
    if found is None:
        return Setup(params=given)
    read = load(found)
    if not options.config and not _is_for(read, reference):
        return Setup(params=given)
    own = read.environment
    return Setup(
        params=merged(own.params, given),
        pip=own.pip,
        network=own.network,
        worker_env=read.worker_env,
        secrets=find(own.secrets, found),
        thinking=read.thinking,
        algorithm=read.algorithm,
        config=found,
    )


@asynccontextmanager
async def package(reference: str, options: Namespace) -> AsyncIterator[Package]:
    """A folder or file here, packed and unpacked, or what the hub has under an id. Raises a FlashError.

    What a run would not get is not there either.
    """
    place = _here(reference)
    if place is None:
        found = await published(reference, options)
        with holding(found.folder):
            yield found
        return
    limits = ArchiveSettings.from_env().archive_limits  # those of its hub are for it to say when it is pushed
    packed = await asyncio.to_thread(pack, place, limits)
    with tempfile.TemporaryDirectory(prefix="flash-env-") as scratch:
        folder = Path(scratch) / "environment"
        await asyncio.to_thread(unpack, packed.file, folder, packed.digest, limits)
        yield Package(folder, place.stem if place.is_file() else place.name, packed.digest, packed)


async def published(reference: str, options: Namespace) -> Package:
    """What the hub has under an id. Raises NotFound."""
    from cli.session import stack
    from cli.watching import Counter
    from flash import client

    if not ENVIRONMENT_ID.fullmatch(full_id(reference, "org")):
        raise NotFound(f"{reference} is neither a folder with {ENTRY} nor the id of an environment, org/name")
    async with stack(options) as bus:
        named = full_id(reference, bus.org)
        version = await client.pin(bus, named, say=output.note)
        folder = copy_of(version.digest, options.home)
        if not folder.is_dir():
            with Counter("fetched", lambda done, total: f"{output.size(done)} of {output.size(total)}") as counter:
                await client.fetch_environment(bus, version, folder, progress=counter.show, say=output.note)
    return Package(folder, f"{version.id}@{version.version}", version.digest)


def copy_of(digest: str, home: Path) -> Path:
    """Where the scorers of this machine keep them too: what lies under a digest has that digest."""
    return home / "cache" / "environments" / digest


@asynccontextmanager
async def host(
    package: Package, setup: Setup, home: Path, *, slots: int = 4, load_s: float = LOAD_S
) -> AsyncIterator[Host]:
    """The environment in a clean process, with the packages it asks for. Raises LoadFailed."""
    # Those of this machine's scorers too. What an author names may be built here: it is the author's machine.
    sets = RequirementSets(home / "cache" / "requirements", builds=True, say=output.note)
    requirements = await sets.folder(setup.pip)
    spec = HostSpec(
        folder=package.folder,
        params=setup.params,
        requirements=requirements,
        network=setup.network,
        env=setup.worker_env,
        secrets=setup.secrets.values,
        limits=Limits(slots=slots),
    )
    started = await Host.start(spec, load_timeout_s=load_s)
    try:
        yield started
    finally:
        await started.close()


def told(failed: LoadFailed) -> str:
    """Why it cannot be loaded, with the author's frames."""
    return f"{missing(failed) or failed.fault.message}\n{failed.fault.traceback}".rstrip()


def missing(failed: LoadFailed) -> str:
    """A sentence on what the package needs and this machine lacks; empty for other failures."""
    if not failed.missing or failed.fault.message.startswith("MissingParam"):  # which says all there is to say
        return ""
    if failed.fault.message.startswith("KeyError"):
        return (
            f"the environment reads the variable {failed.missing}, which is not set for it: name it in "
            "`[environment] secrets` of the config"
        )
    return (
        f"the environment imports {failed.missing}, which is not installed here: name its package in "
        "`[environment] pip` of the config"
    )


def _project(reference: str) -> Path:
    place = Path(reference)
    return place if place.is_dir() else place.parent if place.is_file() else Path()


def _is_for(config: RunConfig, reference: str) -> bool:
    id = config.environment.id.partition("@")[0]
    return not id or Path(reference).exists() or reference.partition("@")[0] in (id, id.rpartition("/")[2])


def _here(reference: str) -> Path | None:
    place = Path(reference)
    return place.resolve() if place.exists() else None


def _params(assignments: Iterable[str]) -> dict[str, Any]:
    params: dict[str, Any] = {}
    for text in assignments:
        name, found, value = text.partition("=")
        if not found or not name.strip():
            raise ConfigError(f"--param must be name=value, for example level=3, but got {text!r}")
        params[name.strip()] = parsed(value.strip())
    if complaints := [*not_carried(("--param",), params)]:
        raise ConfigError("\n".join(complaints))
    return params
