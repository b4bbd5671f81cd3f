"""`flash env show`, `versions`, `diff`, `pull`, `rollback`, `delete`: what the hub keeps of an environment."""

import asyncio
import shutil
import sys
import time
from argparse import Namespace
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from cli import output
from cli.environments import full_id, rows_of
from cli.session import stack
from flash import client
from flash.bus import Bus
from flash.contracts.environments import (
    ENVIRONMENT_ID,
    EnvironmentDelete,
    EnvironmentRollback,
    EnvironmentShow,
    EnvironmentStory,
    EnvironmentWithdraw,
)
from flash.contracts.requests import EnvironmentVersion
from flash.errors import ConfigError, NotFound, Refused

if TYPE_CHECKING:
    from cli.differences import Change

LONG_S = 300.0
"""How long the hub may take to forget an environment of very many versions."""


class Named(NamedTuple):
    """An environment of the hub, or one version of it."""

    org: str
    name: str
    version: str

    @property
    def id(self) -> str:
        return f"{self.org}/{self.name}"

    def __str__(self) -> str:
        return f"{self.id}@{self.version}" if self.version else self.id


async def show(options: Namespace) -> None:
    async with stack(options) as bus:
        found = await _story(bus, _named(options.environment, bus.org))
    if output.wants_json(options):
        output.data(msgspec.to_builtins(found))
        return
    version, now = found.version, time.time()
    state = " (withdrawn)" if version.withdrawn_at else " (current)" if found.is_newest else ""
    output.line(f"{version.id}@{version.version}{state}")
    output.line(f"digest     {version.digest}")
    output.line(f"published  {output.ago(now - version.published_at)} ago, {output.size(version.packed_bytes)} packed")
    output.line(f"rows       {rows_of(version) or 'not counted'}")
    if version.prompt_text:
        output.line(f"contract   {version.prompt_text.strip().splitlines()[0][:68]}")
    for note in version.notes:
        output.line(f"note       {note}")
    output.line(f"used by    {found.num_uses:,} run{'' if found.num_uses == 1 else 's'}")
    if found.uses:
        output.table(
            ("RUN", "STATE", "SUBMITTED", "CHECKPOINTS"),
            [
                (use.run_id, use.state, f"{output.ago(now - use.submitted_at)} ago",
                 " ".join(f"step-{step}" for step in use.checkpoints))
                for use in found.uses
            ],
        )  # fmt: skip


async def versions(options: Namespace) -> None:
    async with stack(options) as bus:
        named = _named(options.environment, bus.org)
        found, newest = await client.versions(bus, named.id)
    states = ["withdrawn" if v.withdrawn_at else "current" if v.version == newest else "" for v in found]
    if output.wants_json(options):
        output.data([msgspec.to_builtins(v) | {"state": s} for v, s in zip(found, states, strict=True)])
        return
    now = time.time()
    output.table(
        ("VERSION", "STATE", "ROWS", "SIZE", "PUBLISHED"),
        [
            (v.version, state, rows_of(v), output.size(v.packed_bytes), f"{output.ago(now - v.published_at)} ago")
            for v, state in zip(found, states, strict=True)
        ],
    )


async def diff(options: Namespace) -> None:
    from cli import authoring
    from cli.differences import between

    old, new = await _two(options)
    one = await authoring.published(old, options)
    async with AsyncExitStack() as opened:
        here = isinstance(new, Path)
        other = await (
            opened.enter_async_context(authoring.package(str(new), options))
            if here
            else authoring.published(str(new), options)
        )
        changes = await asyncio.to_thread(lambda: list(between(one.folder, other.folder)))
        names = one.name, str(new) if here else other.name
    if output.wants_json(options):
        output.data({"old": names[0], "new": names[1], "changes": [msgspec.to_builtins(change) for change in changes]})
        return
    output.note(f"{names[0]} → {names[1]}: {_counted(changes)}")
    for change in changes:
        for text in change.lines:
            output.line(text)


async def fetch(options: Namespace) -> None:
    from cli import authoring

    name = _named(options.environment, "org").name
    into = options.folder or Path(name)
    if not options.force and into.exists() and not (into.is_dir() and not any(into.iterdir())):
        raise Refused(f"{into} is there already: -f writes over its files, or name another folder")
    found = await authoring.published(options.environment, options)
    files = await asyncio.to_thread(_copied, found.folder, into)
    if options.json:
        output.data({"id": found.name, "digest": found.digest, "folder": str(into), "files": files})
        return
    output.line(f"pulled {found.name} into {into}: {len(files):,} file{'' if len(files) == 1 else 's'}")
    output.note(f"change it, then: flash env test {into} and flash env push --name {name} {into}")


async def rollback(options: Namespace) -> None:
    async with stack(options) as bus:
        named = _named(options.environment, bus.org)
        request = EnvironmentRollback(org=named.org, environment=named.name, version=named.version)
        version: EnvironmentVersion = await client.ask(bus, request)
    if options.json:
        output.data(msgspec.to_builtins(version))
        return
    output.line(f"{version.id} is now {version.id}@{version.version}")
    output.note("runs that are under way keep the version that they pinned")


async def delete(options: Namespace) -> None:
    from cli.authoring import copy_of
    from flash.artifacts.copies import remove

    async with stack(options) as bus:
        named = _named(options.environment, bus.org)
        found = await _story(bus, named) if named.version else None
        versions = [found.version] if found else (await client.versions(bus, named.id))[0]
        count = len(versions)
        what = f"{named}" if found else f"{named} with {count:,} version{'' if count == 1 else 's'}"
        if not options.yes:
            _ask(what, found)
        request = (
            EnvironmentWithdraw(org=named.org, environment=named.name, version=named.version)
            if named.version
            else EnvironmentDelete(org=named.org, environment=named.name)
        )
        await client.ask(bus, request, timeout_s=LONG_S)
    for version in versions:
        remove(copy_of(version.digest, options.home))
    if options.json:
        output.data({"id": named.id, "version": named.version or None, "versions": count})
    else:
        output.line(f"{'withdrew' if named.version else 'deleted'} {what}")


def _ask(what: str, found: EnvironmentStory | None) -> None:
    if not sys.stdin.isatty():
        raise ConfigError(f"this would delete {what} for good: -y says that it shall, where nobody can be asked")
    used = f", which {found.num_uses:,} runs used" if found and found.num_uses else ""
    print(f"delete {what}{used}? No run can use it any more. [y/N] ", end="", file=sys.stderr, flush=True)
    if input().strip().lower() not in ("y", "yes"):
        raise Refused("nothing was deleted")


async def _story(bus: Bus, named: Named) -> EnvironmentStory:
    story: EnvironmentStory = await client.ask(bus, EnvironmentShow(reference=str(named)))
    return story


async def _two(options: Namespace) -> tuple[str, str | Path]:
    """What is compared with what: by default the version before the newest, or one that is named, with the newest."""
    async with stack(options) as bus:
        old = _named(options.environment, bus.org)
        if options.other:
            return str(old), _here(options.other) or str(_named(options.other, bus.org, of=old.id))
        found, newest = await client.versions(bus, old.id)
    if old.version:
        return str(old), old.id
    usable = [version.version for version in found if not version.withdrawn_at]
    if newest not in usable[:-1]:
        raise Refused(f"{old.id} has nothing published before its newest version: name another, or a folder")
    return f"{old.id}@{usable[usable.index(newest) + 1]}", f"{old.id}@{newest}"


def _named(text: str, org: str, *, of: str = "") -> Named:
    """`name`, `org/name`, either with `@version`; after an environment `of` also `@version` alone."""
    whole = full_id(f"{of}{text}" if text.startswith("@") else text, org)
    if not ENVIRONMENT_ID.fullmatch(whole):
        raise NotFound(f"{text!r} is no environment: NAME, org/name or org/name@version is wanted")
    id, _, version = whole.partition("@")
    owner, _, name = id.partition("/")
    return Named(owner, name, version)


def _copied(folder: Path, into: Path) -> list[str]:
    """Each file over what goes by its name; what else is there stays."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    for file in files:
        target = into / file.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        coming = target.with_name(f".{target.name}.flash-pull")
        shutil.copyfile(file, coming)
        coming.replace(target)  # a link that was there is replaced, and what it leads to stays
    return [file.relative_to(folder).as_posix() for file in files]


def _here(text: str) -> Path | None:
    return path if (path := Path(text)).exists() else None


def _counted(changes: "list[Change]") -> str:
    if not changes:
        return "the same files"
    kinds = [change.kind for change in changes]
    return ", ".join(f"{kinds.count(kind)} {kind}" for kind in ("changed", "added", "removed") if kind in kinds)
